"""Embedding in plain torch."""

from torch import Tensor

from engine.quant.matrix import Matrix


def embed(matrix: Matrix, ids: Tensor) -> Tensor:
    """The rows of a matrix [vocabulary, hidden] for int64 ids [T]: a new tensor, fp32 [T, hidden]."""
    return matrix.dense_rows(ids).float()
