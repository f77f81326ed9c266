"""GGUF's "K" formats: 256 values with f16 scales d (and dmin) of small scales of 16 or 32 values each.

    Q2_K    16 bytes scale | minimum << 4, 64 bytes of 2 bits, d, dmin          y = d s q - dmin m
    Q3_K    32 bytes of third bits, 64 of 2 bits, 12 of 6-bit scales, d         y = d (s - 32) (q - 4)
    Q4_K    d, dmin, 12 bytes of 6-bit scales and minima, 128 of nibbles        y = d s q - dmin m
    Q5_K    d, dmin, 12 bytes as before, 32 of fifth bits, 128 of nibbles       y = d s q - dmin m
    Q6_K    128 bytes of nibbles, 64 of 2 upper bits, 16 signed scales, d       y = d s (q - 32)

Fields of 2 bits: each half of 128 values has 32 bytes, whose lowest fields are values 0 … 31 of the half, the next
fields 32 … 63, and so on. The order of the products is that of ggml, so that results agree to the bit.
"""

import torch
from torch import Tensor

from engine.quant.bits import half, planes


def q2_k(blocks: Tensor) -> Tensor:
    """Uint8 [N, 84] -> fp32 [N, 256]."""
    scale = half(blocks, 80) * (blocks[:, :16] & 15)
    minimum = half(blocks, 82) * (blocks[:, :16] >> 4)
    return _scaled(_two_bits(blocks[:, 16:80]), scale, minimum)


def q3_k(blocks: Tensor) -> Tensor:
    """Uint8 [N, 110] -> fp32 [N, 256]."""
    low, high = planes(blocks[:, 96:104], 4).flatten(1), planes(blocks[:, 104:108], 2).flatten(1)
    scale = half(blocks, 108) * ((low | high << 4) - 32.0)
    third = planes(blocks[:, :32], 1).flatten(1)
    return _scaled((_two_bits(blocks[:, 32:96]) | third << 2) - 4.0, scale)


def q4_k(blocks: Tensor) -> Tensor:
    """Uint8 [N, 144] -> fp32 [N, 256]."""
    return _scaled(_nibbles(blocks[:, 16:]), *_scales_and_minima(blocks))


def q5_k(blocks: Tensor) -> Tensor:
    """Uint8 [N, 176] -> fp32 [N, 256]."""
    fifth = planes(blocks[:, 16:48], 1).flatten(1)
    return _scaled(_nibbles(blocks[:, 48:]) | fifth << 4, *_scales_and_minima(blocks))


def q6_k(blocks: Tensor) -> Tensor:
    """Uint8 [N, 210] -> fp32 [N, 256]."""
    low = planes(blocks[:, :128].reshape(-1, 2, 64), 4).flatten(1)
    scale = half(blocks, 208) * blocks[:, 192:208].view(torch.int8)
    return _scaled((low | _two_bits(blocks[:, 128:192]) << 4) - 32.0, scale)


def _two_bits(packed: Tensor) -> Tensor:
    """64 bytes of 2-bit fields -> [N, 256]."""
    return planes(packed.reshape(-1, 2, 32), 2).flatten(1)


def _nibbles(packed: Tensor) -> Tensor:
    """128 bytes of nibbles -> [N, 256]: 32 low ones, then the 32 high ones of the same bytes."""
    return planes(packed.reshape(-1, 4, 32), 4).flatten(1)


def _scales_and_minima(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Of Q4_K and Q5_K, fp32 [N, 8] each.

    Twelve bytes a, b, c of four each: 0 … 3 are the low six bits of a (scales) and b (minima); 4 … 7 have their low
    four bits in c, the scales in its low nibbles, and their high two in the high two of a and b.
    """
    a, b, c = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scale = torch.cat((a & 63, c & 15 | a >> 6 << 4), 1)
    minimum = torch.cat((b & 63, c >> 4 | b >> 6 << 4), 1)
    return half(blocks, 0) * scale, half(blocks, 2) * minimum


def _scaled(values: Tensor, scale: Tensor, minimum: Tensor | None = None) -> Tensor:
    """Values [N, 256] times the scale of their sub-block, less its minimum."""
    parts = values.reshape(*scale.shape, -1) * scale.unsqueeze(-1)
    return (parts if minimum is None else parts - minimum.unsqueeze(-1)).flatten(1)


DEQUANTISERS = {"Q2_K": q2_k, "Q3_K": q3_k, "Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k}
