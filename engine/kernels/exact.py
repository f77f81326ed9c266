"""Building blocks whose result for a row does not depend on the other rows.

torch's own sigmoid, silu and softplus use vector code for most of a tensor and scalar code for its tail, which
differ in the last bit: an element's value would depend on where it stands. `exp`, `log1p` and plain arithmetic do
not, so these are written out. torch's matrix products choose their summation order by the number of rows; products
of a fixed number of rows do not. Computed in fp32.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

TILE_ROWS = 16


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x), elementwise, fp32."""
    return torch.exp(-x).add_(1.0).reciprocal_()


def silu(x: Tensor) -> Tensor:
    """x · sigmoid(x), elementwise, fp32."""
    return x * sigmoid(x)


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), elementwise, fp32, without overflow."""
    return torch.clamp(x, min=0.0) + torch.log1p(torch.exp(-x.abs()))


def tiles(x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Cut [T, K] into tiles of exactly 16 rows, the last one padded with zeros.

    Yields the rows of x a tile stands for, and the tile [16, K]. Tiles are equally aligned in memory, since the
    libraries' choice of code may depend on that too.
    """
    num_rows = x.shape[0]
    padded = x.new_zeros(-(-num_rows // TILE_ROWS) * TILE_ROWS, x.shape[1])
    padded[:num_rows] = x
    for start in range(0, num_rows, TILE_ROWS):
        yield slice(start, min(start + TILE_ROWS, num_rows)), padded[start : start + TILE_ROWS]
