"""The two norms against fp64."""

import pytest
import torch
from torch import Tensor

from engine.kernels.norm.reference import gated_rms_norm, rms_norm
from tests.support.memories import ROWS, normal

EPS = 1e-6


def _normed(x: Tensor, eps: float = EPS) -> Tensor:
    x = x.double()
    return x / ((x * x).sum(-1, keepdim=True) / x.shape[-1] + eps).sqrt()


@pytest.mark.parametrize("shape", [(n, 33) for n in ROWS] + [(3, 5, 16), (2, 1), (1, 2048)])
def test_rms_norm(shape: tuple[int, ...]) -> None:
    x, factor = normal(*shape, seed=1) * 3, 1 + normal(shape[-1], seed=2) * 0.3
    before = x.clone()
    out = rms_norm(x, factor, EPS)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), _normed(x) * factor.double(), rtol=2e-6, atol=1e-6)
    assert torch.equal(x, before)


@pytest.mark.parametrize("shape", [(n, 3, 17) for n in ROWS] + [(1, 32, 128)])
def test_gated_rms_norm(shape: tuple[int, ...]) -> None:
    x, gate = normal(*shape, seed=1) * 3, normal(*shape, seed=3) * 4
    factor = 1 + normal(shape[-1], seed=2) * 0.3
    out = gated_rms_norm(x, gate, factor, EPS)
    assert out.dtype == torch.float32
    g = gate.double()
    truth = factor.double() * _normed(x) * g / (1 + torch.exp(-g))
    torch.testing.assert_close(out.double(), truth, rtol=2e-6, atol=1e-6)


def test_eps_counts_for_small_inputs() -> None:
    x, factor = normal(4, 8, seed=1) * 1e-4, torch.ones(8)
    torch.testing.assert_close(rms_norm(x, factor, 1e-2).double(), _normed(x, 1e-2), rtol=1e-5, atol=0.0)
    assert not rms_norm(torch.zeros(2, 8), factor, EPS).any()


def test_a_strided_view() -> None:
    """A query head is half of what q_proj gives: its rows do not lie next to each other."""
    x, factor = normal(5, 3, 32, seed=1), normal(16, seed=2)
    view = x[..., :16]
    assert torch.equal(rms_norm(view, factor, EPS), rms_norm(view.clone(), factor, EPS))
