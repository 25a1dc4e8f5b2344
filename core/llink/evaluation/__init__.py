"""Evaluators, one a file; each returns plain numbers under stable names."""
