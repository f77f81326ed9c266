"""Matrices over bytes: views of dense ones, the values of stored ones, FP8's scales."""

import pytest
import torch

from engine.quant.dequantise import dequantise_rows
from engine.quant.formats import BF16, BY_NAME, F16, F32, FP8_E4M3
from engine.quant.matrix import BlockScales, Matrix, dense_matrix, total_bytes
from engine.quant.quantise import quantise_int8


@pytest.mark.parametrize(("dtype", "format"), [(torch.float32, F32), (torch.float16, F16), (torch.bfloat16, BF16)])
def test_dense_is_a_view(dtype: torch.dtype, format: object) -> None:
    values = torch.randn(6, 8).to(dtype)
    matrix = dense_matrix(values, values + 1)
    assert (matrix.format, matrix.rows, matrix.columns) == (format, 6, 8)
    assert matrix.dense().data_ptr() == values.data_ptr()
    assert torch.equal(matrix.dense(1), values + 1)
    assert torch.equal(matrix.dense_rows(slice(2, 5)), values[2:5])
    assert torch.equal(matrix.dense_rows(torch.tensor([5, 0, 5])), values[[5, 0, 5]])
    assert total_bytes([matrix, matrix]) == 4 * values.nbytes


def test_stored_rows() -> None:
    part = quantise_int8(torch.randn(6, 64))
    matrix = Matrix(BY_NAME["Q8_0"], 6, 64, (part, part.flip(0).contiguous()))
    values = dequantise_rows(matrix.format, part)
    assert torch.equal(matrix.dense(), values)
    assert torch.equal(matrix.dense(1), values.flip(0))
    assert torch.equal(matrix.dense_rows(torch.tensor([3, 3]), 1), values[[2, 2]])
    assert matrix.num_bytes == 2 * 6 * 68


def test_fp8_scales_serve_their_blocks() -> None:
    codes = torch.randint(0, 0x7F, (5, 7), dtype=torch.uint8)
    scales = torch.rand(2, 3)
    matrix = Matrix(FP8_E4M3, 5, 7, (codes,), BlockScales(4, 3, (scales,)))
    values = dequantise_rows(FP8_E4M3, codes)
    wanted = torch.tensor([[values[r, c] * scales[r // 4, c // 3] for c in range(7)] for r in range(5)])
    assert torch.equal(matrix.dense(), wanted)
    assert torch.equal(matrix.dense_rows(torch.tensor([4, 0])), wanted[[4, 0]])
    assert torch.equal(matrix.dense_rows(slice(3, None)), wanted[3:])
    assert matrix.num_bytes == 35 + 24
