"""Operators: one directory each with a plain torch reference, and C++ for processors in `csrc`.

They know layers as values, spans and memory, and nothing of the model around them, scheduling or requests. `table`
gathers those that a model calls, and `choice` decides who computes them; the others are their parts. `build` compiles
the C++, `library` and `cpu` call it.
"""
