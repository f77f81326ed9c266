"""From the bytes of any stored format to fp32: the reference every kernel is compared with."""

from collections.abc import Callable

import torch
from torch import Tensor

from engine.quant import fp4, fp8, i_quants, int4, k_quants, legacy
from engine.quant.formats import Format, int4_format
from engine.quant.i_quants import codebook

__all__ = ["codebook", "dequantise_rows"]

DEQUANTISERS: dict[str, Callable[[Tensor], Tensor]] = {
    **fp8.DEQUANTISERS,
    **legacy.DEQUANTISERS,
    **k_quants.DEQUANTISERS,
    **i_quants.DEQUANTISERS,
    **fp4.DEQUANTISERS,
}
INT4_CODE = int4_format(32).code
CHUNK_VALUES = 1 << 20  # intermediate tensors take up to some 12 bytes a value: 12 MB


def dequantise_rows(format: Format, rows: Tensor) -> Tensor:
    """The values of some rows, on the device of their bytes.

    Shapes: rows uint8 [R, row bytes]; returns fp32 [R, columns]. FP8 comes without its block scales. ValueError for a
    format that is not quantised, or rows that are no whole number of blocks.
    """
    num_rows, row_bytes = rows.shape
    if row_bytes % format.block_bytes:
        raise ValueError(f"rows of {row_bytes} bytes are no multiple of {format.name}'s {format.block_bytes}")
    dequantise = _dequantiser(format)
    columns = row_bytes // format.block_bytes * format.block
    out = torch.empty(num_rows, columns, device=rows.device)
    step = max(1, CHUNK_VALUES // max(1, columns))
    for start in range(0, num_rows, step):
        chunk = rows[start : start + step]
        out[start : start + step] = dequantise(chunk.reshape(-1, format.block_bytes)).view(len(chunk), columns)
    return out


def _dequantiser(format: Format) -> Callable[[Tensor], Tensor]:
    if format.code == INT4_CODE:
        return int4.dequantise
    if format.name not in DEQUANTISERS:
        raise ValueError(f"{format.name} is not a quantised format")
    return DEQUANTISERS[format.name]
