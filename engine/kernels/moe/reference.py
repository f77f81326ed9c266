"""The feed-forward half in plain torch: each expert computes its rows in tiles, experts add in ascending order."""

import torch
from torch import Tensor

from engine.kernels.exact import sigmoid, silu
from engine.kernels.linear.reference import exact_linear, linear
from engine.kernels.norm.reference import rms_norm
from engine.layers.moe import Mlp, SparseMoe
from engine.weights.source import MlpWeights


def add_moe(x: Tensor, moe: SparseMoe) -> Tensor:
    """x + routed experts of norm(x) + sigmoid(shared gate · norm(x)) · shared expert of norm(x); may be written into x.

    Shapes: x fp32 [T, hidden]; returns the same.
    """
    weights = moe.weights
    inputs = rms_norm(x, moe.norm, moe.eps)
    shares, experts = route(exact_linear(inputs, weights.router), moe.top_k, moe.normalise)
    routed = mixture(inputs, shares, experts, weights.experts)
    gate = sigmoid((inputs * weights.shared_gate).sum(-1, keepdim=True))
    return x.add_(routed + gate * swiglu(inputs, weights.shared))


def add_mlp(x: Tensor, mlp: Mlp) -> Tensor:
    """x + SwiGLU of norm(x); may be written into x.

    Shapes: x fp32 [T, hidden]; returns the same.
    """
    return x.add_(swiglu(rms_norm(x, mlp.norm, mlp.eps), mlp.weights))


def route(logits: Tensor, top_k: int, normalise: bool) -> tuple[Tensor, Tensor]:
    """Choose experts: softmax over all, take the top k, optionally make their weights sum to one.

    Shapes: logits fp32 [T, E]; returns weights fp32 [T, k] and expert ids int64 [T, k].
    """
    weights, experts = torch.softmax(logits, dim=-1).topk(top_k, dim=-1)
    if normalise:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights, experts


def mixture(x: Tensor, weights: Tensor, experts: Tensor, stacks: MlpWeights) -> Tensor:
    """Σ over the chosen experts e of weight_e · down_e( silu(gate_e x) ⊙ (up_e x) ).

    Shapes: x fp32 [T, H], weights fp32 [T, k], experts int64 [T, k]; returns fp32 [T, H].
    """
    top_k = experts.shape[1]
    experts, order = experts.sort(dim=-1)
    weights = weights.gather(1, order)
    flat = experts.flatten()
    pairs = flat.argsort(stable=True)  # (token, expert) pairs, expert by expert
    inputs = x[pairs // top_k]
    outputs = torch.empty(len(flat), x.shape[1], dtype=torch.float32, device=x.device)
    start = 0
    for expert, count in enumerate(flat.bincount().tolist()):
        if count:
            rows = slice(start, start + count)
            outputs[pairs[rows]] = swiglu(inputs[rows], stacks, expert)
            start += count
    parts = outputs.view(*experts.shape, x.shape[1]) * weights.unsqueeze(-1)
    total = parts[:, 0]
    for place in range(1, top_k):
        total = total + parts[:, place]
    return total


def swiglu(x: Tensor, weights: MlpWeights, index: int = 0) -> Tensor:
    """down( silu(gate x) ⊙ (up x) ), of one expert of a stack.

    Shapes: x fp32 [T, H]; returns fp32 [T, H].
    """
    hidden = silu(linear(x, weights.gate, index)) * linear(x, weights.up, index)
    return linear(hidden, weights.down, index)
