"""Routing against a sort, and the mixture against a dense sum over all experts, in fp64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.kernels.moe.reference import moe, route, swiglu
from tests.support.memories import NAN, ROWS, normal

HIDDEN, SIZE = 19, 11


def _expert(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    gate, up = gate_up.double()[: len(gate_up) // 2], gate_up.double()[len(gate_up) // 2 :]
    return (F.silu(x.double() @ gate.t()) * (x.double() @ up.t())) @ down.double().t()


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(("num_experts", "top_k"), [(1, 1), (5, 1), (5, 3), (8, 8), (512, 10)])
@pytest.mark.parametrize("num_rows", ROWS)
def test_route(num_rows: int, num_experts: int, top_k: int, normalise: bool) -> None:
    logits = normal(num_rows, num_experts, seed=1) * 3
    weights, experts = route(logits, top_k, normalise)
    assert weights.shape == experts.shape == (num_rows, top_k)
    assert weights.dtype == torch.float32
    for row, row_weights, row_experts in zip(logits.double(), weights, experts, strict=True):
        probabilities = torch.exp(row) / torch.exp(row).sum()
        best = sorted(range(num_experts), key=lambda e: -float(probabilities[e]))[:top_k]
        truth = probabilities[best] / (probabilities[best].sum() if normalise else 1.0)
        assert row_experts.tolist() == best
        torch.testing.assert_close(row_weights.double(), truth, rtol=1e-5, atol=1e-7)


def test_route_of_large_logits() -> None:
    weights, experts = route(torch.tensor([[1e4, -1e4, 1e4 - 50]]), 2, True)
    assert experts.tolist() == [[0, 2]]
    assert weights[0].tolist() == pytest.approx([1.0, 0.0], abs=1e-20)


@pytest.mark.parametrize("num_rows", ROWS)
@pytest.mark.parametrize(("num_experts", "top_k"), [(1, 1), (6, 2), (5, 5)])
def test_against_a_dense_sum(num_rows: int, num_experts: int, top_k: int) -> None:
    x = normal(num_rows, HIDDEN, seed=1)
    gate_up, down = normal(num_experts, 2 * SIZE, HIDDEN, seed=2) * 0.3, normal(num_experts, HIDDEN, SIZE, seed=3) * 0.3
    weights, experts = route(normal(num_rows, num_experts, seed=4), top_k, True)
    dense = torch.zeros(num_rows, num_experts).scatter_(1, experts, weights)
    truth = sum(dense[:, e, None].double() * _expert(x, gate_up[e], down[e]) for e in range(num_experts))
    out = moe(x, weights, experts, gate_up, down)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), truth, rtol=1e-5, atol=1e-5)


def test_experts_nobody_chose_are_not_read() -> None:
    x, gate_up, down = normal(17, HIDDEN, seed=1), normal(4, 2 * SIZE, HIDDEN, seed=2), normal(4, HIDDEN, SIZE, seed=3)
    gate_up[1], down[1] = NAN, NAN
    experts = torch.tensor([[0, 2], [3, 0], [2, 3]]).repeat(6, 1)[:17]
    assert moe(x, torch.full((17, 2), 0.5), experts, gate_up, down).isfinite().all()


def test_the_order_of_a_rows_experts_does_not_matter() -> None:
    x, gate_up, down = normal(5, HIDDEN, seed=1), normal(4, 2 * SIZE, HIDDEN, seed=2), normal(4, HIDDEN, SIZE, seed=3)
    weights, experts = route(normal(5, 4, seed=4), 3, True)
    assert torch.equal(moe(x, weights, experts, gate_up, down), moe(x, weights.flip(1), experts.flip(1), gate_up, down))


@pytest.mark.parametrize("num_rows", ROWS)
def test_swiglu(num_rows: int) -> None:
    x, gate_up, down = normal(num_rows, HIDDEN, seed=1), normal(2 * SIZE, HIDDEN, seed=2), normal(HIDDEN, SIZE, seed=3)
    torch.testing.assert_close(swiglu(x, gate_up, down).double(), _expert(x, gate_up, down), rtol=1e-5, atol=1e-4)


def test_swiglu_in_bf16_rounds_the_hidden_layer() -> None:
    x, gate_up, down = (
        (normal(*shape, seed=i) * 0.4).bfloat16()
        for i, shape in enumerate([(33, HIDDEN), (2 * SIZE, HIDDEN), (HIDDEN, SIZE)])
    )
    truth = _expert(x, gate_up, down)
    error = (swiglu(x, gate_up, down).double() - truth).norm() / truth.norm()
    assert error < 0.01
