"""How weights are stored: their formats, what the bytes mean, and making our own from dense ones.

Knows bytes and tensors; nothing of checkpoints' names, layers or kernels.
"""
