"""Operators: one directory each, with a plain torch reference and, later, faster implementations beside it.

They know tensors, spans and memory, and nothing of layers, scheduling or requests. `table` gathers them.
"""
