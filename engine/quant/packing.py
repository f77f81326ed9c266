"""Packed weights: the blocks of each sixteen rows interleaved, in the order in which a processor's kernels read them.

A row keeps its values, a matrix its size: only the bytes' places change. In a block of sixteen rows, all rows' first
words come first, then all their second ones and so on, likewise what a block has beside whole words of four bytes: one
to five bytes before the first word, or two after the last. What stands at byte i of each of the sixteen blocks starts
at byte 16 * i of the packed ones.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from engine.quant.dequantise import INT4_CODE
from engine.quant.formats import Format
from engine.quant.matrix import Matrix

ROWS = 16
WORD = 4
HEAD_BYTES = {  # by format; INT4's is 5
    "MXFP4": 1, "Q4_0": 2, "Q5_0": 2, "Q8_0": 2, "IQ4_NL": 2,
    "Q4_1": 0, "Q5_1": 0, "Q2_K": 0, "Q3_K": 0, "Q4_K": 0, "Q5_K": 0, "Q6_K": 0, "IQ4_XS": 0, "NVFP4": 0,
}  # fmt: skip


def can_pack(matrix: Matrix) -> bool:
    """Whether the format has a packed form, and the rows are whole sixteens."""
    return head_bytes(matrix.format) is not None and matrix.rows % ROWS == 0 and not matrix.packed


def pack(matrix: Matrix) -> Matrix:
    """The reference, into new memory; see `can_pack`. The kernels compiled for a processor make the same bytes."""
    return replace(matrix, parts=tuple(_interleave(part, matrix.format) for part in matrix.parts), packed=True)


def _interleave(part: Tensor, format: Format) -> Tensor:
    """Rows [R, row bytes] to the same bytes packed."""
    blocks = part.view(len(part) // ROWS, ROWS, -1, format.block_bytes)
    fields = [blocks[..., start:end].transpose(1, 2).flatten(2) for start, end in _fields(format)]
    return torch.cat(fields, dim=2).view(part.shape)


def head_bytes(format: Format) -> int | None:
    """What a block has before its first whole word; None where the format has no packed form."""
    return 5 if format.code == INT4_CODE else HEAD_BYTES.get(format.name)


def _fields(format: Format) -> Iterator[tuple[int, int]]:
    """The pieces of a block that stand together: where each starts and ends."""
    head, start = head_bytes(format), 0
    assert head is not None
    for end in (min(head, WORD), head, *range(head + WORD, format.block_bytes, WORD), format.block_bytes):
        if end > start:
            yield start, end
            start = end
