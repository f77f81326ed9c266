"""From dense weights to our two stored formats: Q8_0, as GGUF lays it out, and `int4`.

Weights are taken some rows at a time, so that a matrix of any size needs a few MB beyond its result. A row's bytes do
not depend on the other rows. ValueError for columns that are no whole number of blocks, and for weights that are not
finite or too large for a scale.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from engine.quant import int4
from engine.quant.formats import BY_NAME, Format, int4_format

VALUES_PER_THREAD = 1 << 17  # intermediate tensors of this size stay in a core's cache: 2 MB
# Ranges tried for a group, relative to the one that just holds it. A narrower one clips the outermost values and
# resolves the others better; together these take 3 to 5 % off the error of a plain minimum and maximum, at a pass each.
RANGES = (1.0, 1.05, 0.95, 0.9, 0.85, 0.8)


def quantise_int8(weights: Tensor) -> Tensor:
    """The nearest Q8_0 to weights [R, C] of any float dtype: uint8 [R, row bytes].

    Off by half a scale at most; a scale is 1/127 of its block's largest magnitude, rounded up to f16.
    """
    return _quantise(BY_NAME["Q8_0"], weights, _int8_blocks)


def quantise_int4(weights: Tensor, group: int = 32) -> Tensor:
    """Weights [R, C] of any float dtype in `int4_format(group)`: uint8 [R, row bytes].

    Each group gets the range that leaves the least squared error among some.
    """
    return _quantise(int4_format(group), weights, _int4_blocks)


def _quantise(format: Format, weights: Tensor, quantise_blocks: Callable[[Tensor], Tensor]) -> Tensor:
    num_rows, columns = weights.shape
    out = torch.empty(num_rows, format.row_bytes(columns), dtype=torch.uint8, device=weights.device)
    step = max(1, VALUES_PER_THREAD * torch.get_num_threads() // max(1, columns))
    for start in range(0, num_rows, step):
        chunk = weights[start : start + step].float().reshape(-1, format.block)
        out[start : start + step] = quantise_blocks(chunk).view(-1, out.shape[1])
    return out


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
    low, high = x.amin(1, keepdim=True).clamp_(max=0), x.amax(1, keepdim=True).clamp_(min=0)
    widest = (high - low) / 15
    _check_finite(widest)
    widest = torch.where(widest > 0, widest, 1)
    zero = torch.round(-low / widest)
    best = widest
    least = _squared_error(x, _nearest(x, widest, zero), widest)
    for ratio in RANGES:
        values = _nearest(x, widest * ratio, zero)
        # The scale that suits these values best; rounding to it anew, below, can only improve the match.
        scale = (x * values).sum(1, keepdim=True) / values.square().sum(1, keepdim=True).clamp_(min=1)
        error = _squared_error(x, values, scale)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    values = _nearest(x, best, zero).add_(zero).to(torch.uint8)
    return int4.pack(values, zero.to(torch.uint8), best)


def _nearest(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """The whole numbers in [-zero, 15 - zero] nearest to x / scale."""
    return (x / scale).round_().add_(zero).clamp_(0, 15).sub_(zero)


def _squared_error(x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(x, values, scale, value=-1).square_().sum(1, keepdim=True)


def _check_finite(scales: Tensor) -> None:
    if not torch.isfinite(scales).all():
        raise ValueError("weights that are not finite, or too large, cannot be quantised")
