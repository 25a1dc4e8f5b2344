"""Parallel pairs and instructions."""
