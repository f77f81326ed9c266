"""Our 4-bit format, and how the 4-bit checkpoints of others become it, without loss.

A block of `group` values (a multiple of 32) is an fp32 scale, a u8 zero point, and group / 2 bytes of nibbles: 16 bytes
for each run of 32 values, byte j with value j in its low nibble and value j + 16 in its high one. y = scale (q - zero).
Files hold f16 or bf16 scales, which fp32 holds exactly.

The converters take the tensors of one matrix [out, in] and give its format and rows; any device. They raise
`LoadError`, without the matrix's name, where the tensors do not fit together or we do not support what they say.
"""

import torch
from torch import Tensor

from engine.errors import LoadError
from engine.quant.bits import in_order, planes, viewed
from engine.quant.formats import Format, int4_format

RUN = 32
HEADER_BYTES = 5
GPTQ_V1_ONES = 0x11111111
AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # of a word's eight columns: the nibble that holds each
SYMMETRIC_ZERO = 8
LOW_NIBBLES = 0x0F0F0F0F0F0F0F0F


def dequantise(blocks: Tensor) -> Tensor:
    """Uint8 [N, group / 2 + 5] -> fp32 [N, group]."""
    scale = viewed(blocks[:, :4], torch.float32)
    runs = blocks[:, HEADER_BYTES:].reshape(len(blocks), -1, RUN // 2)
    return scale * (planes(runs, 4).flatten(1).float() - blocks[:, 4:HEADER_BYTES])


def pack(values: Tensor, zeros: Tensor, scales: Tensor) -> Tensor:
    """Rows of blocks: uint8 [R, row bytes].

    Shapes: values uint8 [R, columns], each below 16; zeros uint8 and scales (any float dtype) [R, groups].
    """
    low, high = values.view(len(values), -1, 2, RUN // 2).unbind(2)
    return _rows(low | high << 4, zeros, scales)


def _pack_words(words: Tensor, zeros: Tensor, scales: Tensor) -> Tensor:
    """The same for values that are packed in their order already, the lowest nibbles first: int32 [R, columns / 8]."""
    low, high = viewed(words, torch.int64).view(len(words), -1, 2).unbind(2)  # a run's halves of sixteen values
    evens, odds = low & LOW_NIBBLES | (high & LOW_NIBBLES) << 4, low >> 4 & LOW_NIBBLES | high & ~LOW_NIBBLES
    as_bytes = [part.unsqueeze(-1).view(torch.uint8) for part in (evens, odds)]
    return _rows(torch.stack(as_bytes, -1).flatten(2), zeros, scales)


def _rows(runs: Tensor, zeros: Tensor, scales: Tensor) -> Tensor:
    """Put headers before the nibbles uint8 [R, runs, 16]."""
    header = viewed(scales.float().unsqueeze(-1), torch.uint8), zeros.unsqueeze(-1)
    return torch.cat((*header, runs.view(*scales.shape, -1)), -1).flatten(1)


def from_gptq(
    qweight: Tensor, qzeros: Tensor, scales: Tensor, g_idx: Tensor | None, zero_offset: int
) -> tuple[Format, Tensor]:
    """A GPTQ matrix.

    Shapes: qweight int32 [in / 8, out], qzeros int32 [groups, out / 8], scales [groups, out], g_idx int32 [in]: the
    group of each input, None or empty when they are in order. zero_offset is 1 for checkpoint_format "gptq" (v1, which
    stores zero points less one) and 0 for "gptq_v2".
    """
    num_groups, rows = _pair(scales, "scales")
    columns = 8 * qweight.shape[0]
    format = _format(columns, num_groups)
    _check_words(qweight, (columns // 8, rows), "qweight")
    _check_words(qzeros, (num_groups, -(-rows // 8)), "qzeros")
    _check_group_order(g_idx, columns, format.block)
    # Writers of v1 subtract from whole words, with borrow, so the sum of whole words is what undoes it for any zero.
    zeros = _nibbles(qzeros + zero_offset * GPTQ_V1_ONES)[:, :rows]
    return format, _pack_words(qweight.t(), zeros.t(), scales.t())


def from_awq(qweight: Tensor, qzeros: Tensor, scales: Tensor) -> tuple[Format, Tensor]:
    """An AWQ matrix of version GEMM: qweight int32 [in, out / 8], qzeros int32 [groups, out / 8], scales [groups, out].

    Eight columns share a word in the order 0, 2, 4, 6, 1, 3, 5, 7 from its lowest nibble on.
    """
    num_groups, rows = _pair(scales, "scales")
    format = _format(qweight.shape[0], num_groups)
    _check_words(qweight, (qweight.shape[0], -(-rows // 8)), "qweight")
    _check_words(qzeros, (num_groups, -(-rows // 8)), "qzeros")
    zeros = _awq_nibbles(qzeros)[:, :rows]
    inputs = _awq_nibbles(qweight)[:, :rows].unflatten(0, (-1, 8))  # eight of them, of one output, are a word of ours
    shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=qweight.device).unsqueeze(-1)
    words = (inputs << shifts).sum(1, dtype=torch.int32)
    return format, _pack_words(words.t(), zeros.t().to(torch.uint8), scales.t())


def from_compressed_tensors(
    weight_packed: Tensor, weight_scale: Tensor, weight_zero_point: Tensor | None, weight_g_idx: Tensor | None
) -> tuple[Format, Tensor]:
    """A 4-bit matrix in compressed-tensors' "pack-quantized" form.

    Shapes: weight_packed int32 [out, in / 8], weight_scale [out, groups], weight_zero_point int32 [out / 8, groups],
    None when symmetric; weight_g_idx as GPTQ's. Values and zero points are stored plus 8, so that is no matter here.
    """
    rows, num_groups = _pair(weight_scale, "weight_scale")
    columns = 8 * weight_packed.shape[-1]
    format = _format(columns, num_groups)
    _check_words(weight_packed, (rows, columns // 8), "weight_packed")
    _check_group_order(weight_g_idx, columns, format.block)
    if weight_zero_point is None:
        zeros = torch.full((rows, num_groups), SYMMETRIC_ZERO, dtype=torch.uint8, device=weight_scale.device)
    else:
        _check_words(weight_zero_point, (-(-rows // 8), num_groups), "weight_zero_point")
        zeros = _nibbles(weight_zero_point.t()).t()[:rows]
    return format, _pack_words(weight_packed, zeros, weight_scale)


def _nibbles(words: Tensor) -> Tensor:
    """Int32 [A, B] -> uint8 [A, 8 * B], the lowest nibbles first."""
    return in_order(viewed(words, torch.uint8), 4)


def _awq_nibbles(words: Tensor) -> Tensor:
    """Int32 [A, B] -> [A, 8 * B] in the order of the columns."""
    shifts = torch.tensor(AWQ_PLACES, dtype=torch.int32, device=words.device) * 4
    return (words.unsqueeze(-1) >> shifts & 15).flatten(1)


def _pair(tensor: Tensor, name: str) -> tuple[int, int]:
    if tensor.ndim != 2 or not tensor.is_floating_point() or not tensor.numel():
        raise LoadError(f"{name} is {_described(tensor)}: a matrix of floating-point numbers is needed")
    return tensor.shape[0], tensor.shape[1]


def _format(columns: int, num_groups: int) -> Format:
    if not columns or columns % num_groups or columns // num_groups % RUN:
        raise LoadError(
            f"{num_groups} groups of scales for {columns} inputs: groups must be a multiple of {RUN} inputs"
        )
    return int4_format(columns // num_groups)


def _check_words(tensor: Tensor, shape: tuple[int, int], name: str) -> None:
    if tensor.dtype != torch.int32 or tensor.shape != shape:
        raise LoadError(f"{name} is {_described(tensor)}; the scales need int32 {list(shape)}")


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _check_group_order(g_idx: Tensor | None, columns: int, group: int) -> None:
    if g_idx is None or not g_idx.numel():
        return
    plain = torch.arange(columns, device=g_idx.device) // group
    if not torch.equal(g_idx.long(), plain):
        raise LoadError(
            f"its groups of {group} inputs are not in plain order (g_idx; activation order, desc_act): "
            "use a version of the model quantised without it"
        )
