"""Operators: one directory each, with a plain torch reference and, later, faster implementations beside it.

They know layers as values, spans and memory, and nothing of the model around them, scheduling or requests. `table`
gathers those that a model calls; the others are their parts.
"""
