"""GGUF's formats of 32 values with one f16 scale d, some with an f16 minimum m too.

    Q4_0    d, 16 bytes of nibbles         y = d (q - 8)
    Q4_1    d, m, 16 bytes                 y = d q + m
    Q5_0    d, 4 bytes of fifth bits, 16   y = d (q - 16)
    Q5_1    d, m, 4 bytes, 16              y = d q + m
    Q8_0    d, 32 signed bytes             y = d q

The low nibbles are values 0 … 15, the high ones 16 … 31; fifth bits are in the order of the values.
"""

import torch
from torch import Tensor

from engine.quant.bits import half, in_order, planes


def q4_0(blocks: Tensor) -> Tensor:
    """Uint8 [N, 18] -> fp32 [N, 32]."""
    return half(blocks, 0) * (_nibbles(blocks, 2) - 8.0)


def q4_1(blocks: Tensor) -> Tensor:
    """Uint8 [N, 20] -> fp32 [N, 32]."""
    return half(blocks, 0) * _nibbles(blocks, 4) + half(blocks, 2)


def q5_0(blocks: Tensor) -> Tensor:
    """Uint8 [N, 22] -> fp32 [N, 32]."""
    return half(blocks, 0) * (_five_bits(blocks, 2) - 16.0)


def q5_1(blocks: Tensor) -> Tensor:
    """Uint8 [N, 24] -> fp32 [N, 32]."""
    return half(blocks, 0) * _five_bits(blocks, 4) + half(blocks, 2)


def q8_0(blocks: Tensor) -> Tensor:
    """Uint8 [N, 34] -> fp32 [N, 32]."""
    return half(blocks, 0) * blocks[:, 2:].view(torch.int8)


def _nibbles(blocks: Tensor, at: int) -> Tensor:
    return planes(blocks[:, at : at + 16], 4).flatten(1)


def _five_bits(blocks: Tensor, at: int) -> Tensor:
    return _nibbles(blocks, at + 4) | in_order(blocks[:, at : at + 4], 1) << 4


DEQUANTISERS = {"Q4_0": q4_0, "Q4_1": q4_1, "Q5_0": q5_0, "Q5_1": q5_1, "Q8_0": q8_0}
