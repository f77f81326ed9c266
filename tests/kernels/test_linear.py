"""`linear` against a product in fp64."""

import pytest
import torch

from engine.kernels.linear.reference import linear
from tests.support.memories import NAN, ROWS, normal

SHAPES = [(1, 1), (5, 3), (64, 33), (33, 64), (130, 127)]


@pytest.mark.parametrize("num_rows", ROWS)
@pytest.mark.parametrize(("num_out", "num_in"), SHAPES)
def test_fp32(num_rows: int, num_out: int, num_in: int) -> None:
    x, weight = normal(num_rows, num_in, seed=1), normal(num_out, num_in, seed=2)
    out = linear(x, weight)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), x.double() @ weight.double().t(), rtol=1e-5, atol=1e-5 * num_in**0.5)


@pytest.mark.parametrize("num_rows", ROWS)
def test_bf16_is_rounded_once(num_rows: int) -> None:
    x, weight = normal(num_rows, 63, seed=1, dtype=torch.bfloat16), normal(31, 63, seed=2, dtype=torch.bfloat16)
    out = linear(x, weight)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), x.double() @ weight.double().t(), rtol=2**-8, atol=1e-5)


def test_a_broken_row_breaks_no_other() -> None:
    x, weight = normal(33, 20, seed=1), normal(7, 20, seed=2)
    whole = linear(x, weight)
    x[17] = NAN
    broken = linear(x, weight)
    assert broken[17].isnan().all()
    keep = torch.arange(33) != 17
    assert torch.equal(broken[keep], whole[keep])


def test_rows_of_a_larger_tensor() -> None:
    x, weight = normal(9, 40, seed=1), normal(7, 20, seed=2)
    assert torch.equal(linear(x[:, 11:31], weight), linear(x[:, 11:31].clone(), weight))
    assert torch.equal(linear(x[::2, :20], weight), linear(x[:, :20], weight)[::2])
