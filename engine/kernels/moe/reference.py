"""The routed experts in plain torch: each expert computes its rows in tiles, experts add in ascending order."""

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.kernels.exact import silu, tiles


def route(logits: Tensor, top_k: int, normalise: bool) -> tuple[Tensor, Tensor]:
    """Choose experts: softmax over all, take the top k, optionally make their weights sum to one.

    Shapes: logits fp32 [T, E]; returns weights fp32 [T, k] and expert ids int64 [T, k].
    """
    weights, experts = torch.softmax(logits, dim=-1).topk(top_k, dim=-1)
    if normalise:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights, experts


def moe(x: Tensor, weights: Tensor, experts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Σ over the chosen experts e of weight_e · down_e( silu(gate_e x) ⊙ up_e x ).

    Shapes: x [T, H], weights fp32 [T, k], experts int64 [T, k], gate_up [E, 2I, H] (gate rows first), down [E, H, I];
    returns fp32 [T, H].
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
            outputs[pairs[rows]] = swiglu(inputs[rows], gate_up[expert], down[expert])
            start += count
    parts = outputs.view(*experts.shape, x.shape[1]) * weights.unsqueeze(-1)
    total = parts[:, 0]
    for place in range(1, top_k):
        total = total + parts[:, place]
    return total


def swiglu(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """down( silu(gate x) ⊙ up x ).

    Shapes: x [T, H], gate_up [2I, H] (gate rows first), down [H, I]; returns fp32 [T, H].
    """
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    for rows, tile in tiles(x):
        gate, up = F.linear(tile, gate_up).float().chunk(2, dim=-1)
        hidden = (silu(gate) * up).to(x.dtype)
        out[rows] = F.linear(hidden, down).float()[: rows.stop - rows.start]
    return out
