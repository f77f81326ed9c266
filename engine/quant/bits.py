"""Small fields out of bytes, for tensors of blocks: uint8 [N, block bytes]. Plain torch, on any device.

Numbers of several bytes are little-endian, in the files as on every machine torch runs on.
"""

import torch
from torch import Tensor


def viewed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The same bytes as another dtype: [..., B] -> [..., B * size / new size].

    Of a copy: what torch lets one view depends on strides and offset, and a lone row may have any, contiguous or not.
    """
    return tensor.clone(memory_format=torch.contiguous_format).view(dtype)


def half(blocks: Tensor, at: int) -> Tensor:
    """The f16 at byte `at` of each block, as fp32 [N, 1]."""
    return viewed(blocks[:, at : at + 2], torch.float16).float()


def word16(blocks: Tensor, at: int, count: int) -> Tensor:
    """`count` 16-bit unsigned numbers from byte `at` on, as int32 [N, count]."""
    pairs = blocks[:, at : at + 2 * count].reshape(-1, count, 2).int()
    return pairs[..., 0] | pairs[..., 1] << 8


def planes(packed: Tensor, bits: int) -> Tensor:
    """Cut bytes into fields, the lowest first: uint8 [..., B] -> [..., 8 / bits, B], field k of all bytes together."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    return packed.unsqueeze(-2) >> shifts.unsqueeze(-1) & (1 << bits) - 1


def in_order(packed: Tensor, bits: int) -> Tensor:
    """Cut bytes into fields, the lowest first: uint8 [..., B] -> [..., B * 8 / bits], a byte's fields together."""
    return planes(packed, bits).transpose(-1, -2).flatten(-2)


def looked_up(table: Tensor, codes: Tensor) -> Tensor:
    """Entries of a table [E, ...] for whole numbers [...]: `table[codes]`, several times faster on a CPU."""
    return table.index_select(0, codes.flatten().int()).view(codes.shape + table.shape[1:])
