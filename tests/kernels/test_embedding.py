"""Embedding rows, of dense and of quantised matrices."""

import pytest
import torch

from engine.kernels.embedding.reference import embed
from engine.quant.formats import BY_NAME
from engine.quant.matrix import Matrix, dense_matrix
from engine.quant.quantise import quantise_int8
from tests.support.memories import normal

IDS = torch.tensor([3, 0, 3, 6])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_of_a_dense_matrix_are_copied(dtype: torch.dtype) -> None:
    values = normal(7, 32, seed=1, dtype=dtype)
    before = values.clone()
    x = embed(dense_matrix(values), IDS)
    assert torch.equal(x, values[IDS].float())
    x.zero_()  # whoever adds to x must not change the weights
    assert torch.equal(values, before)


def test_rows_of_a_quantised_matrix() -> None:
    matrix = Matrix(BY_NAME["Q8_0"], 7, 32, (quantise_int8(normal(7, 32, seed=1)),))
    assert torch.equal(embed(matrix, IDS), matrix.dense()[IDS])


def test_nothing_to_do() -> None:
    assert embed(dense_matrix(normal(7, 32, seed=1)), IDS[:0]).shape == (0, 32)
