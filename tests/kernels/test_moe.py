"""Routing against a sort, and the mixture against a dense sum over all experts, in fp64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.kernels.linear.reference import exact_linear
from engine.kernels.moe.reference import add_mlp, add_moe, mixture, route, swiglu
from engine.kernels.norm.reference import rms_norm
from engine.layers.moe import Mlp, SparseMoe
from engine.quant.matrix import dense_matrix
from engine.weights.source import MlpWeights, MoeWeights
from tests.support.memories import NAN, ROWS, normal, same_bits

HIDDEN, SIZE = 19, 11


def _weights(num: int, seed: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> MlpWeights:
    gate, up, down = (
        dense_matrix(*(normal(num, *shape, seed=seed + i) * scale).to(dtype).unbind())
        for i, shape in enumerate([(SIZE, HIDDEN), (SIZE, HIDDEN), (HIDDEN, SIZE)])
    )
    return MlpWeights(gate, up, down)


def _expert(x: Tensor, weights: MlpWeights, index: int = 0) -> Tensor:
    gate, up, down = (matrix.dense(index).double() for matrix in (weights.gate, weights.up, weights.down))
    return (F.silu(x.double() @ gate.t()) * (x.double() @ up.t())) @ down.t()


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
    x, stacks = normal(num_rows, HIDDEN, seed=1), _weights(num_experts, seed=2, scale=0.3)
    weights, experts = route(normal(num_rows, num_experts, seed=5), top_k, True)
    dense = torch.zeros(num_rows, num_experts).scatter_(1, experts, weights)
    truth = sum(dense[:, e, None].double() * _expert(x, stacks, e) for e in range(num_experts))
    out = mixture(x, weights, experts, stacks)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), truth, rtol=1e-5, atol=1e-5)


def test_experts_nobody_chose_are_not_read() -> None:
    x, stacks = normal(17, HIDDEN, seed=1), _weights(4, seed=2)
    for matrix in (stacks.gate, stacks.up, stacks.down):
        matrix.dense(1).fill_(NAN)
    experts = torch.tensor([[0, 2], [3, 0], [2, 3]]).repeat(6, 1)[:17]
    assert mixture(x, torch.full((17, 2), 0.5), experts, stacks).isfinite().all()


def test_the_order_of_a_rows_experts_does_not_matter() -> None:
    x, stacks = normal(5, HIDDEN, seed=1), _weights(4, seed=2)
    weights, experts = route(normal(5, 4, seed=5), 3, True)
    assert torch.equal(mixture(x, weights, experts, stacks), mixture(x, weights.flip(1), experts.flip(1), stacks))


@pytest.mark.parametrize("num_rows", ROWS)
def test_swiglu(num_rows: int) -> None:
    x, weights = normal(num_rows, HIDDEN, seed=1), _weights(1, seed=2)
    torch.testing.assert_close(swiglu(x, weights).double(), _expert(x, weights), rtol=1e-5, atol=1e-4)


def test_swiglu_in_bf16_rounds_the_hidden_layer() -> None:
    x, weights = (normal(33, HIDDEN, seed=1) * 0.4).bfloat16().float(), _weights(1, 2, torch.bfloat16, scale=0.4)
    truth = _expert(x, weights)
    error = (swiglu(x, weights).double() - truth).norm() / truth.norm()
    assert error < 0.01


@pytest.mark.parametrize("num_rows", ROWS)
def test_add_mlp(num_rows: int) -> None:
    x, mlp = normal(num_rows, HIDDEN, seed=1), Mlp(normal(HIDDEN, seed=2), 1e-3, _weights(1, seed=3))
    expected = x + swiglu(rms_norm(x, mlp.norm, mlp.eps), mlp.weights)
    assert same_bits(add_mlp(x, mlp), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", ROWS)
def test_add_moe(num_rows: int, dtype: torch.dtype) -> None:
    """The router is multiplied in fp32 even where it is stored in bf16: one rounding could choose another expert."""
    router, gate = dense_matrix(normal(6, HIDDEN, seed=2, dtype=dtype)), normal(HIDDEN, seed=3)
    weights = MoeWeights(router, _weights(6, seed=4), _weights(1, seed=7), gate)
    x, moe = normal(num_rows, HIDDEN, seed=1), SparseMoe(normal(HIDDEN, seed=8), 1e-3, 2, True, weights)
    inputs = rms_norm(x, moe.norm, moe.eps)
    shares, experts = route(exact_linear(inputs, router), 2, True)
    shared = torch.sigmoid(inputs.double() @ gate.double())[:, None] * _expert(inputs, weights.shared)
    truth = x.double() + mixture(inputs, shares, experts, weights.experts).double() + shared
    torch.testing.assert_close(add_moe(x, moe).double(), truth, rtol=1e-5, atol=1e-4)
