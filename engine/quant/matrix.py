"""`Matrix`: weight matrices in the bytes of their file, usually mapped and not copied."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.quant.dequantise import dequantise_rows
from engine.quant.formats import BF16, DENSE, F16, F32, Format

DENSE_DTYPES = {F32: torch.float32, F16: torch.float16, BF16: torch.bfloat16}
DENSE_FORMATS = {dtype: format for format, dtype in DENSE_DTYPES.items()}


@dataclass(frozen=True, slots=True)
class BlockScales:
    """FP8's scales: one for each `rows` × `columns` values, fp32 [ceil(R / rows), ceil(C / columns)] a matrix."""

    rows: int
    columns: int
    parts: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """One weight matrix [rows, columns], or a stack of them, e.g. a projection of every expert.

    Attributes:
        parts: one uint8 [rows, row bytes] for each matrix of the stack, each contiguous.
        scales: for FP8 only.
        packed: whether the bytes are interleaved, see `engine.quant.packing`; only compiled kernels can read them then.
    """

    format: Format
    rows: int
    columns: int
    parts: tuple[Tensor, ...]
    scales: BlockScales | None = None
    packed: bool = False

    @property
    def num_bytes(self) -> int:
        scales = sum(part.nbytes for part in self.scales.parts) if self.scales else 0
        return sum(part.nbytes for part in self.parts) + scales

    @property
    def device(self) -> torch.device:
        return self.parts[0].device

    def to(self, device: torch.device) -> "Matrix":
        """The same bytes on a device; itself if they are there."""
        if self.device == device:
            return self
        scales = self.scales and replace(self.scales, parts=tuple(part.to(device) for part in self.scales.parts))
        return replace(self, parts=tuple(part.to(device) for part in self.parts), scales=scales)

    def dense(self, index: int = 0) -> Tensor:
        """The values of one matrix [rows, columns]: a view for F32, F16 and BF16, else fp32, computed anew."""
        return self.dense_rows(slice(None), index)

    def dense_rows(self, rows: slice | Tensor, index: int = 0) -> Tensor:
        """Some rows of one matrix, by a slice or by int64 row numbers; see `dense`."""
        assert not self.packed
        chosen = self.parts[index][rows]
        if self.format in DENSE:
            return chosen.view(DENSE_DTYPES[self.format])
        values = dequantise_rows(self.format, chosen)
        if self.scales is None:
            return values
        scales = self.scales.parts[index].float()
        row_numbers = torch.arange(self.rows, device=self.device)[rows] // self.scales.rows
        column_numbers = torch.arange(self.columns, device=self.device) // self.scales.columns
        return values * scales[row_numbers][:, column_numbers]


def dense_matrix(*tensors: Tensor) -> Matrix:
    """Wrap ordinary tensors [rows, columns] of one shape and dtype, without copying where they are contiguous."""
    rows, columns = tensors[0].shape
    parts = tuple(tensor.contiguous().view(torch.uint8) for tensor in tensors)
    return Matrix(DENSE_FORMATS[tensors[0].dtype], rows, columns, parts)


def total_bytes(matrices: Sequence[Matrix]) -> int:
    """Bytes of several matrices together."""
    return sum(matrix.num_bytes for matrix in matrices)
