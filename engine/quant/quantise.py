"""From dense weights to our two stored formats: Q8_0, as GGUF lays it out, and `int4`.

The reference: the kernels compiled for a processor make the same bytes, many times faster. A row's bytes do not depend
on the other rows. Weights are taken some blocks at a time: a stack of any size needs a few MB beyond its result.
"""

import torch
from torch import Tensor

from engine.quant import int4
from engine.quant.formats import BY_NAME, Format, int4_format
from engine.quant.matrix import Matrix, dense_matrix

Q8_0 = BY_NAME["Q8_0"]
VALUES_AT_ONCE = 1 << 16  # some ten intermediate tensors of 256 KB, which a core's cache holds
VALUES_AT_ONCE_ON_GPU = 1 << 22
# Steps tried for a group, by how many of them go into the one that just holds its range. Each leads to other nearest
# numbers, and the best of three takes 2 to 5 % off the error of that one alone; more add little, at a pass each.
FINER = (1.0, 1.04, 0.94)


def quantise(matrix: Matrix, format: Format) -> Matrix:
    """A dense stack in Q8_0 or in `int4`, on the device it is on.

    Q8_0 is the nearest there is, off by half a scale at most; a scale is 1/127 of its block's largest magnitude,
    rounded up to f16. Each group of int4 gets the scale that leaves the least squared error among some.
    Raises:
        ValueError: weights that are not finite or too large for a scale, or columns that are no whole number of blocks.
    """
    shape = len(matrix.parts), matrix.rows, format.row_bytes(matrix.columns)
    out = torch.empty(shape, dtype=torch.uint8, device=matrix.device)
    quantise_blocks = _int8_blocks if format == Q8_0 else _int4_blocks
    step = (VALUES_AT_ONCE if matrix.device.type == "cpu" else VALUES_AT_ONCE_ON_GPU) // format.block
    for index, part in enumerate(out):
        blocks, made = matrix.dense(index).view(-1, format.block), part.view(-1, format.block_bytes)
        for start in range(0, len(blocks), step):
            made[start : start + step] = quantise_blocks(blocks[start : start + step].float())
    return Matrix(format, matrix.rows, matrix.columns, tuple(out))


def quantise_int8(weights: Tensor) -> Tensor:
    """Weights [R, C] in fp32, fp16 or bf16 to Q8_0: uint8 [R, row bytes]; see `quantise`."""
    return quantise(dense_matrix(weights), Q8_0).parts[0]


def quantise_int4(weights: Tensor, group: int = 32) -> Tensor:
    """Weights [R, C] in fp32, fp16 or bf16 to `int4_format(group)`, a power of two: uint8 [R, row bytes]."""
    return quantise(dense_matrix(weights), int4_format(group)).parts[0]


def _int8_blocks(x: Tensor) -> Tensor:
    """Fp32 [N, 32] -> uint8 [N, 34]."""
    wanted = x.abs().amax(1, keepdim=True) / 127
    scale = wanted.half()
    # The next f16 up where rounding went down: the bits of positive numbers are in the order of the numbers.
    scale = (scale.view(torch.int16) + (scale.float() < wanted).short()).view(torch.float16)
    _check_finite(scale)
    values = torch.round(x / torch.where(scale > 0, scale.float(), 1))
    return torch.cat((scale.view(torch.uint8), values.to(torch.int8).view(torch.uint8)), 1)


def _int4_blocks(x: Tensor) -> Tensor:
    """Fp32 [N, group] -> uint8 [N, group / 2 + 5].

    Zero is always in the range, so that zero weights stay zero and zero points lie in 0 … 15.
    """
    x = x.t().contiguous()  # blocks are lanes from here on
    low, high = x.amin(0).clamp_(max=0), x.amax(0).clamp_(min=0)
    step = (high - low) / 15
    _check_finite(step)
    divisor = torch.where(step > 0, step, 1)
    x, first = x / divisor, torch.round(low / divisor)
    gain, finer = torch.zeros_like(step), torch.ones_like(step)
    for candidate in FINER:
        _, dot, square = _fit(x, candidate, first)
        better = dot * dot / square > gain
        gain, finer = torch.where(better, dot * dot / square, gain), torch.where(better, square / dot, finer)
    values, dot, square = _fit(x, finer, first)
    values = (values - first).t().contiguous().to(torch.uint8)
    return int4.pack(values, (-first).to(torch.uint8).unsqueeze(1), (step * (dot / square)).unsqueeze(1))


def _fit(x: Tensor, finer: Tensor | float, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The whole numbers v [group, N] from `first` [N] to first + 15 that are nearest to x * finer; x·v and v·v, [N].

    x·v / v·v is the scale that suits these numbers best, and (x·v)² / v·v what it takes off the squared error.
    """
    values = (x * finer).round_().clamp_(first, first + 15)
    return values, _sum(x * values), _sum(values * values).clamp_(min=1)


def _sum(x: Tensor) -> Tensor:
    """[group, N] -> [N], in a tree: the order is the kernels' own."""
    while len(x) > 1:
        x = x[: len(x) // 2] + x[len(x) // 2 :]
    return x[0]


def _check_finite(scales: Tensor) -> None:
    if not torch.isfinite(scales).all():
        raise ValueError("weights that are not finite, or too large, cannot be quantised")
