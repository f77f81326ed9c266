"""The two norms against fp64."""

import pytest
import torch
from torch import Tensor

from engine.kernels.norm.reference import gated_rms_norm, rms_norm
from tests.support.memories import ROWS, normal

EPS = 1e-6
DTYPES = [torch.float32, torch.bfloat16]
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2**-8}


def _normed(x: Tensor, eps: float = EPS) -> Tensor:
    x = x.double()
    return x / ((x * x).sum(-1, keepdim=True) / x.shape[-1] + eps).sqrt()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(n, 33) for n in ROWS] + [(3, 5, 16), (2, 1), (1, 2048)])
def test_rms_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight = normal(*shape, seed=1, dtype=dtype) * 3, normal(shape[-1], seed=2, dtype=dtype) * 0.3
    out = rms_norm(x, weight, EPS)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), _normed(x) * (1 + weight.double()), rtol=ROUNDING[dtype], atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(n, 3, 17) for n in ROWS] + [(1, 32, 128)])
def test_gated_rms_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, gate = normal(*shape, seed=1) * 3, normal(*shape, seed=3, dtype=dtype) * 4
    weight = 1 + normal(shape[-1], seed=2, dtype=dtype) * 0.3
    out = gated_rms_norm(x, gate, weight, EPS)
    assert out.dtype == dtype
    g = gate.double()
    truth = weight.double() * _normed(x) * g / (1 + torch.exp(-g))
    torch.testing.assert_close(out.double(), truth, rtol=ROUNDING[dtype], atol=1e-6)


def test_eps_counts_for_small_inputs() -> None:
    x, weight = normal(4, 8, seed=1) * 1e-4, torch.zeros(8)
    torch.testing.assert_close(rms_norm(x, weight, 1e-2).double(), _normed(x, 1e-2), rtol=1e-5, atol=0.0)
    assert not rms_norm(torch.zeros(2, 8), weight, EPS).any()


def test_a_strided_view() -> None:
    """A query head is half of what q_proj gives: its rows do not lie next to each other."""
    x, weight = normal(5, 3, 32, seed=1), normal(16, seed=2)
    view = x[..., :16]
    assert torch.equal(rms_norm(view, weight, EPS), rms_norm(view.clone(), weight, EPS))
