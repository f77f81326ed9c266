"""The model's building blocks as values: weights and geometry, frozen. The kernels compute with them.

They know weights and the configuration; nothing of kernels, caches, schedulers or requests.
"""
