"""Products with a matrix against fp64, and what is put together from them."""

import pytest
import torch
from torch import Tensor

from engine.kernels.linear.reference import add_projection, exact_linear, linear, project
from engine.kernels.norm.reference import rms_norm
from engine.quant.formats import BY_NAME, FP8_E4M3
from engine.quant.matrix import BlockScales, Matrix, dense_matrix
from engine.quant.quantise import quantise_int8
from tests.support.memories import NAN, ROWS, normal, same_bits

SHAPES = [(1, 1), (5, 3), (64, 33), (33, 64), (130, 127)]


def _matrix(rows: int, columns: int, dtype: torch.dtype, seed: int = 2) -> Matrix:
    return dense_matrix(normal(rows, columns, seed=seed, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("num_rows", ROWS)
@pytest.mark.parametrize(("num_out", "num_in"), SHAPES)
def test_fp32(num_rows: int, num_out: int, num_in: int, dtype: torch.dtype) -> None:
    x, matrix = normal(num_rows, num_in, seed=1), _matrix(num_out, num_in, dtype)
    out = linear(x, matrix)
    assert out.dtype == torch.float32
    truth = x.double() @ matrix.dense().double().t()
    torch.testing.assert_close(out.double(), truth, rtol=1e-5, atol=1e-5 * num_in**0.5)


@pytest.mark.parametrize("num_rows", ROWS)
def test_bf16_is_rounded_once(num_rows: int) -> None:
    x, matrix = normal(num_rows, 63, seed=1, dtype=torch.bfloat16), _matrix(31, 63, torch.bfloat16)
    out = linear(x.float(), matrix)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), x.double() @ matrix.dense().double().t(), rtol=2**-8, atol=1e-5)


def test_inputs_are_rounded_to_bf16_for_bf16_and_for_the_router_not() -> None:
    x, matrix = normal(9, 63, seed=1), _matrix(31, 63, torch.bfloat16)
    assert torch.equal(linear(x, matrix), linear(x.bfloat16().float(), matrix))
    truth = x.double() @ matrix.dense().double().t()
    torch.testing.assert_close(exact_linear(x, matrix).double(), truth, rtol=1e-5, atol=1e-4)


def _fp8() -> Matrix:
    values = normal(5, 64, seed=2).to(torch.float8_e4m3fn).view(torch.uint8)
    return Matrix(FP8_E4M3, 5, 64, (values,), BlockScales(2, 32, (normal(3, 2, seed=3),)))


@pytest.mark.parametrize("num_rows", ROWS)
@pytest.mark.parametrize("name", ["Q8_0", "FP8"])
def test_quantised(name: str, num_rows: int) -> None:
    int8 = Matrix(BY_NAME["Q8_0"], 5, 64, (quantise_int8(normal(5, 64, seed=2)),))
    matrix = int8 if name == "Q8_0" else _fp8()
    x = normal(num_rows, 64, seed=1)
    torch.testing.assert_close(
        linear(x, matrix).double(), x.double() @ matrix.dense().double().t(), rtol=1e-5, atol=1e-4
    )


def test_one_of_a_stack() -> None:
    x, weights = normal(3, 20, seed=1), [normal(7, 20, seed=seed) for seed in (2, 3, 4)]
    stack = dense_matrix(*weights)
    for index, weight in enumerate(weights):
        assert torch.equal(linear(x, stack, index), linear(x, dense_matrix(weight)))


def test_a_broken_row_breaks_no_other() -> None:
    x, matrix = normal(33, 20, seed=1), _matrix(7, 20, torch.float32)
    whole = linear(x, matrix)
    x[17] = NAN
    broken = linear(x, matrix)
    assert broken[17].isnan().all()
    keep = torch.arange(33) != 17
    assert torch.equal(broken[keep], whole[keep])


def test_rows_of_a_larger_tensor() -> None:
    x, matrix = normal(9, 40, seed=1), _matrix(7, 20, torch.float32)
    assert torch.equal(linear(x[:, 11:31], matrix), linear(x[:, 11:31].clone(), matrix))
    assert torch.equal(linear(x[::2, :20], matrix), linear(x[:, :20], matrix)[::2])


@pytest.mark.parametrize("num_rows", ROWS)
def test_project_puts_matrices_side_by_side(num_rows: int) -> None:
    x, factor = normal(num_rows, 20, seed=1), normal(20, seed=5)
    matrices = (_matrix(7, 20, torch.float32), _matrix(1, 20, torch.bfloat16, seed=3), _matrix(4, 20, torch.float32, 4))
    before = x.clone()

    def parts(rows: Tensor) -> Tensor:
        return torch.cat([linear(rows, matrix) for matrix in matrices], dim=1)

    assert same_bits(project(x, None, 1e-6, matrices), parts(x))
    assert same_bits(project(x, factor, 1e-2, matrices), parts(rms_norm(x, factor, 1e-2)))
    assert same_bits(x, before)


@pytest.mark.parametrize("num_rows", ROWS)
def test_add_projection(num_rows: int) -> None:
    x, y, matrix = normal(num_rows, 7, seed=1), normal(num_rows, 20, seed=2), _matrix(7, 20, torch.float32, seed=3)
    expected = x + linear(y, matrix)
    before = y.clone()
    assert same_bits(add_projection(x, y, matrix), expected)
    assert same_bits(y, before)
