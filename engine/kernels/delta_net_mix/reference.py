"""A DeltaNet mixer in plain torch: convolution, delta rule, gated norm (Gated DeltaNet, arXiv 2412.06464)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.batch import RecurrentState, Span
from engine.kernels.causal_conv.reference import causal_conv
from engine.kernels.exact import sigmoid, softplus
from engine.kernels.gated_delta_rule.reference import gated_delta_rule
from engine.kernels.norm.reference import gated_rms_norm
from engine.layers.gated_delta_net import GatedDeltaNet
from engine.weights.source import HeadGroups

L2_EPS = 1e-6


def delta_net_mix(net: GatedDeltaNet, projected: Tensor, memory: RecurrentState, spans: Sequence[Span]) -> Tensor:
    """From projected rows to what the output projection takes; advances the states of the spans' slots.

    Shapes: projected fp32 [T, P], laid out as `net.weights` says; returns fp32 [T, value heads * value dim].
    """
    weights, keys = net.weights, net.num_key_heads * net.key_dim
    per_key_head = net.num_value_heads // net.num_key_heads
    values = per_key_head * net.value_dim
    inputs = [
        _gather(projected, groups, net.num_key_heads, size)
        for groups, size in ((weights.query, net.key_dim), (weights.key, net.key_dim), (weights.value, values))
    ]
    mixed = causal_conv(torch.cat(inputs, dim=-1), weights.conv, memory.conv, spans)
    query = _l2_norm(mixed[:, :keys].unflatten(1, (net.num_key_heads, -1))) * net.key_dim**-0.5
    key = _l2_norm(mixed[:, keys : 2 * keys].unflatten(1, (net.num_key_heads, -1)))
    value = mixed[:, 2 * keys :].unflatten(1, (net.num_value_heads, -1))
    b = _gather(projected, weights.ba, net.num_key_heads, per_key_head)
    after_b = HeadGroups(weights.ba.offset + per_key_head, weights.ba.stride)
    a = _gather(projected, after_b, net.num_key_heads, per_key_head)
    decay = torch.exp(weights.decay_rate * softplus(a + weights.dt_bias))
    out = gated_delta_rule(query, key, value, decay, sigmoid(b), memory.delta, spans)
    gate = _gather(projected, weights.gate, net.num_key_heads, values).unflatten(1, (net.num_value_heads, -1))
    return gated_rms_norm(out, gate, weights.norm, net.eps).flatten(1)


def _gather(projected: Tensor, groups: HeadGroups, num_groups: int, size: int) -> Tensor:
    """The parts of one kind, `size` columns of every group: [T, num_groups * size]."""
    parts = projected[:, groups.offset :].unfold(1, size, groups.stride)[:, :num_groups]
    return parts.reshape(projected.shape[0], num_groups * size)


def _l2_norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + L2_EPS)
