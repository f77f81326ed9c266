"""Products with a matrix in plain torch, one tile of 16 rows at a time: a row's result does not depend on its company.

A matrix in bf16 is multiplied in bf16: inputs and results are rounded to it, sums are not. All others are multiplied
in fp32, those that are quantised after turning all their values into fp32.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.kernels.exact import tiles
from engine.kernels.norm.reference import rms_norm
from engine.quant.formats import BF16
from engine.quant.matrix import Matrix


def linear(x: Tensor, matrix: Matrix, index: int = 0) -> Tensor:
    """x Wᵀ with one matrix of a stack.

    Shapes: x fp32 [T, columns]; returns fp32 [T, rows].
    """
    weight = matrix.dense(index)
    if matrix.format is BF16:
        return _product(x.to(torch.bfloat16), weight)
    return _product(x, weight.float())


def exact_linear(x: Tensor, matrix: Matrix) -> Tensor:
    """As `linear`, but in fp32 whatever the matrix is stored in: for the router, where a rounding picks an expert."""
    return _product(x, matrix.dense().float())


def project(x: Tensor, factor: Tensor | None, eps: float, matrices: Sequence[Matrix]) -> Tensor:
    """[ W₀ x | W₁ x | … ] of the rows of x, first through `rms_norm` if a factor is given.

    Shapes: x fp32 [T, columns], factor fp32 [columns]; returns fp32 [T, sum of all rows].
    """
    if factor is not None:
        x = rms_norm(x, factor, eps)
    return torch.cat([linear(x, matrix) for matrix in matrices], dim=-1)


def add_projection(x: Tensor, y: Tensor, matrix: Matrix) -> Tensor:
    """x + W y; may be written into x.

    Shapes: x fp32 [T, rows], y fp32 [T, columns]; returns fp32 [T, rows].
    """
    return x.add_(linear(y, matrix))


def _product(x: Tensor, weight: Tensor) -> Tensor:
    out = torch.empty(x.shape[0], weight.shape[0], dtype=torch.float32, device=x.device)
    for rows, tile in tiles(x):
        out[rows] = F.linear(tile, weight)[: rows.stop - rows.start]
    return out
