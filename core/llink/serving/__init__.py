"""Answers from adapters in memory: the engine and what it is made of."""
