"""GGUF's "IQ" formats: values looked up in a table.

IQ2 and IQ3 look up 8 (or 4) magnitudes at once in a codebook and store the signs apart. 256 values a block:

    IQ2_XXS   d, 8 × (4 bytes index, u32: 4 × 7 bits of signs, 4 bits s)        y = d (0.5 + s) / 4 · ± grid
    IQ2_XS    d, 32 × u16 (9 bits index, 7 of signs), 8 bytes of nibbles s      the same
    IQ2_S     d, 32 bytes index, 32 of signs, 8 of 2 upper index bits, 8 of s   the same
    IQ3_XXS   d, 64 bytes index, 8 × u32 as above                               y = d (0.5 + s) / 2 · ± grid
    IQ3_S     d, 64 bytes index, 8 of ninth bits, 32 of signs, 4 of nibbles s   y = d (1 + 2 s) · ± grid

Seven bits of signs stand for eight: the number of minus signs is even. IQ4_NL (32 values, as Q4_0) and IQ4_XS (256,
as eight of those with 6-bit scales) look up single values. The order of the products is ggml's.
"""

from functools import cache

import torch
from torch import Tensor

from engine.quant.bits import half, in_order, looked_up, planes, viewed, word16

WITH_CODEBOOK = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")
IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@cache
def codebook(format_name: str) -> Tensor:
    """The magnitudes a format's indices stand for, on the CPU; not to be written to.

    uint8 [256 | 512 | 1024, 8] for IQ2_XXS, IQ2_XS and IQ2_S, [256 | 512, 4] for IQ3_XXS and IQ3_S. ValueError for
    formats without one. The tables come from the `gguf` package.
    """
    if format_name not in WITH_CODEBOOK:
        raise ValueError(f"{format_name} has no codebook")
    from gguf import quants  # 20 MB of constants and tools that only these formats need

    table = getattr(quants, format_name)
    table.init_grid()
    return torch.from_numpy(table.grid).reshape(table.grid_shape).to(torch.uint8)


def iq2_xxs(blocks: Tensor) -> Tensor:
    """Uint8 [N, 66] -> fp32 [N, 256]."""
    groups = blocks[:, 2:].reshape(-1, 8, 8)
    signs, scale = _signs_and_scale(groups[..., 4:])
    return _signed("IQ2_XXS", groups[..., :4].flatten(1), signs, half(blocks, 0) * scale * 0.25)


def iq2_xs(blocks: Tensor) -> Tensor:
    """Uint8 [N, 74] -> fp32 [N, 256]."""
    words = word16(blocks, 2, 32)
    scale = half(blocks, 0) * (in_order(blocks[:, 66:], 4) + 0.5) * 0.25
    return _signed("IQ2_XS", words & 511, _eight_signs(words >> 9), scale)


def iq2_s(blocks: Tensor) -> Tensor:
    """Uint8 [N, 82] -> fp32 [N, 256]."""
    index = blocks[:, 2:34].int() | in_order(blocks[:, 66:74], 2).int() << 8
    scale = half(blocks, 0) * (in_order(blocks[:, 74:], 4) + 0.5) * 0.25
    return _signed("IQ2_S", index, in_order(blocks[:, 34:66], 1), scale)


def iq3_xxs(blocks: Tensor) -> Tensor:
    """Uint8 [N, 98] -> fp32 [N, 256]."""
    signs, scale = _signs_and_scale(blocks[:, 66:].reshape(-1, 8, 4))
    return _signed("IQ3_XXS", blocks[:, 2:66], signs, half(blocks, 0) * scale * 0.5)


def iq3_s(blocks: Tensor) -> Tensor:
    """Uint8 [N, 110] -> fp32 [N, 256]."""
    index = blocks[:, 2:66].int() | in_order(blocks[:, 66:74], 1).int() << 8
    scale = half(blocks, 0) * (in_order(blocks[:, 106:], 4) * 2.0 + 1.0)
    return _signed("IQ3_S", index, in_order(blocks[:, 74:106], 1), scale)


def iq4_nl(blocks: Tensor) -> Tensor:
    """Uint8 [N, 18] -> fp32 [N, 32]: f16 d, 16 bytes of nibbles; y = d · table."""
    return half(blocks, 0) * _iq4_values(planes(blocks[:, 2:], 4).flatten(1))


def iq4_xs(blocks: Tensor) -> Tensor:
    """Uint8 [N, 136] -> fp32 [N, 256]: f16 d, 2 bytes of upper, 4 of lower bits of scales, 8 × 16 bytes of nibbles."""
    scale = (in_order(blocks[:, 4:8], 4) | in_order(blocks[:, 2:4], 2) << 4) - 32.0
    values = _iq4_values(planes(blocks[:, 8:].reshape(-1, 8, 16), 4).flatten(2))
    return ((half(blocks, 0) * scale).unsqueeze(-1) * values).flatten(1)


def _iq4_values(nibbles: Tensor) -> Tensor:
    return looked_up(torch.tensor(IQ4_VALUES, dtype=torch.float32, device=nibbles.device), nibbles)


def _signs_and_scale(words: Tensor) -> tuple[Tensor, Tensor]:
    """Of little-endian words uint8 [N, 8, 4]: sign bits [N, 256] and 0.5 + the top four bits, fp32 [N, 8]."""
    word = viewed(words, torch.int32)  # signed: the bits shifted in at the top are masked away
    shifts = torch.arange(0, 28, 7, dtype=torch.int32, device=word.device)
    return _eight_signs((word >> shifts & 127).flatten(1)), (word >> 28 & 15).squeeze(-1) + 0.5


def _eight_signs(seven: Tensor) -> Tensor:
    """Sign bits [N, 8 * G] of seven-bit numbers [N, G]: the eighth makes the number of ones even."""
    parity = seven ^ seven >> 4
    parity = parity ^ parity >> 2
    parity = (parity ^ parity >> 1) & 1
    return in_order((seven | parity << 7).to(torch.uint8), 1)


def _signed(name: str, index: Tensor, signs: Tensor, scale: Tensor) -> Tensor:
    """Magnitudes by their indices [N, .], with signs [N, 256] (1 is minus), times the scale [N, .] of their part."""
    magnitudes = looked_up(codebook(name).to(index.device), index).flatten(1).float()
    values = torch.where(signs != 0, -magnitudes, magnitudes)
    return (values.view(*scale.shape, -1) * scale.unsqueeze(-1)).flatten(1)


DEQUANTISERS = {
    "IQ2_XXS": iq2_xxs,
    "IQ2_XS": iq2_xs,
    "IQ2_S": iq2_s,
    "IQ3_XXS": iq3_xxs,
    "IQ3_S": iq3_s,
    "IQ4_NL": iq4_nl,
    "IQ4_XS": iq4_xs,
}
