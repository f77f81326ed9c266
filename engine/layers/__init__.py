"""The model's building blocks: each declares its weights and computes packed rows with the kernels it is given.

They know tensors, batches and memory; nothing of caches, schedulers or requests.
"""
