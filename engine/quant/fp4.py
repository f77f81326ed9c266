"""Formats of 4-bit floats (E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and a sign), as GGUF stores them.

    MXFP4   32 values: an E8M0 scale 2^(e - 127), 16 bytes of nibbles: 16 low ones, then 16 high ones
    NVFP4   64 values: 4 E4M3 scales of 16 values each, 4 × 8 bytes of nibbles: 8 low ones, then 8 high ones

The tables hold twice the values and half the scales, which are exact: the smallest scale is an fp32 subnormal. As in
ggml, E4M3 scales have no sign and 0x7f counts as zero. A file's NVFP4 tensors may come with one more factor for all of
a matrix, which is not part of the format.
"""

import torch
from torch import Tensor

from engine.quant.bits import looked_up, planes

DOUBLED_VALUES = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
HALVED_E8M0 = tuple(2.0 ** (e - 128) for e in range(256))


def _halved_e4m3(code: int) -> float:
    exponent, mantissa = code >> 3 & 15, code & 7
    if code == 0x7F:
        return 0.0
    return mantissa * 2.0**-10 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 11)


HALVED_E4M3 = tuple(_halved_e4m3(code) for code in range(256))


def mxfp4(blocks: Tensor) -> Tensor:
    """Uint8 [N, 17] -> fp32 [N, 32]."""
    return _entries(HALVED_E8M0, blocks[:, :1]) * _entries(DOUBLED_VALUES, planes(blocks[:, 1:], 4).flatten(1))


def nvfp4(blocks: Tensor) -> Tensor:
    """Uint8 [N, 36] -> fp32 [N, 64]."""
    values = _entries(DOUBLED_VALUES, planes(blocks[:, 4:].reshape(-1, 4, 8), 4).flatten(2))
    return (_entries(HALVED_E4M3, blocks[:, :4]).unsqueeze(-1) * values).flatten(1)


def _entries(table: tuple[float, ...], codes: Tensor) -> Tensor:
    return looked_up(torch.tensor(table, dtype=torch.float32, device=codes.device), codes)


DEQUANTISERS = {"MXFP4": mxfp4, "NVFP4": nvfp4}
