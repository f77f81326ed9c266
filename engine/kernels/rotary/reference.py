"""Rotary position embedding in plain torch, half-split."""

import torch
from torch import Tensor

from engine.layers.rope import Rotation


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the first dimensions of every head: pairs (i, i + rotary dim / 2), the rest passes through.

    Shapes: x fp32 [T, heads, head dim]; returns the same.
    """
    half = rotation.cos.shape[1]
    cos, sin = rotation.cos.unsqueeze(1), rotation.sin.unsqueeze(1)
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)
