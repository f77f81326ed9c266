"""The 4-bit format, and the checkpoints of others turned into it, against loops over single weights."""

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.errors import LoadError
from engine.quant.dequantise import dequantise_rows
from engine.quant.formats import Format, int4_format
from engine.quant.int4 import from_awq, from_compressed_tensors, from_gptq, pack

AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
SHAPES = [(8, 64, 32), (24, 192, 64), (16, 128, 128), (8, 96, 96)]  # outputs, inputs, group


def words(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**31), 2**31, shape, generator=generator).to(torch.int32)


def scales(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5)).to(dtype)


def nibbles(packed: Tensor) -> list[list[list[int]]]:
    """The eight fields of each word, the lowest first."""
    return [[[word >> 4 * k & 15 for k in range(8)] for word in row] for row in packed.tolist()]


def weight(scale: float, value: int, zero: int) -> np.float32:
    return np.float32(scale) * np.float32(value - zero)


def check(result: tuple[Format, Tensor], group: int, wanted: list[list[np.float32]]) -> None:
    format, rows = result
    assert format == int4_format(group)
    assert rows.dtype == torch.uint8
    assert rows.is_contiguous()
    assert rows.shape == (len(wanted), format.row_bytes(len(wanted[0])))
    assert torch.equal(dequantise_rows(format, rows), torch.from_numpy(np.array(wanted)))


def test_a_block_by_hand() -> None:
    """Byte j of a run holds value j below and value j + 16 above."""
    values = torch.tensor([*range(16), *range(15, -1, -1), *[3] * 16, *[12] * 16], dtype=torch.uint8)
    row = pack(values.view(1, 64), torch.tensor([[7]], dtype=torch.uint8), torch.tensor([[0.5]]))
    nibbles = [j | (15 - j) << 4 for j in range(16)] + [3 | 12 << 4] * 16
    assert row.tolist() == [[0, 0, 0, 0x3F, 7, *nibbles]]
    assert torch.equal(dequantise_rows(int4_format(64), row), 0.5 * (values.float() - 7).view(1, 64))


@pytest.mark.parametrize("group", [0, -32, 16, 48])
def test_groups_are_whole_runs(group: int) -> None:
    with pytest.raises(ValueError, match=f"multiple of 32, not {group}"):
        int4_format(group)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("outputs", "inputs", "group"), SHAPES)
@pytest.mark.parametrize("offset", [0, 1])
def test_gptq(outputs: int, inputs: int, group: int, dtype: torch.dtype, offset: int) -> None:
    qweight, qzeros = words(inputs // 8, outputs), words(inputs // group, outputs // 8, seed=1)
    if offset:  # v1 has no place for a zero point of 16
        qzeros &= 0x77777777
    scale = scales(inputs // group, outputs, dtype=dtype)
    values, zeros, factors = nibbles(qweight), nibbles(qzeros), scale.float().tolist()
    wanted = [
        [
            weight(factors[i // group][o], values[i // 8][o][i % 8], zeros[i // group][o // 8][o % 8] + offset)
            for i in range(inputs)
        ]
        for o in range(outputs)
    ]
    order = torch.arange(inputs, dtype=torch.int32) // group
    check(from_gptq(qweight, qzeros, scale, order, offset), group, wanted)
    check(from_gptq(qweight, qzeros, scale, order[:0], offset), group, wanted)
    check(from_gptq(qweight, qzeros, scale, None, offset), group, wanted)


def test_gptq_symmetric() -> None:
    """What the 4-bit release of this model holds: v1, every zero point 8, stored as 7."""
    qweight, scale = words(8, 8), scales(2, 8)
    _, rows = from_gptq(qweight, torch.full((2, 1), 0x77777777, dtype=torch.int32), scale, None, 1)
    assert (rows.view(8, 2, 21)[..., 4] == 8).all()


def test_gptq_v1_zero_points_of_zero_come_back() -> None:
    """Writers turn v2 into v1 by a subtraction from whole words, which borrows from the nibbles above."""
    v2 = words(2, 3, seed=9) & torch.tensor([0x0F0F0F0F, -16, 0x01230120], dtype=torch.int32)
    v1 = ((v2.long() - 0x11111111) & 0xFFFFFFFF).to(torch.int32)
    qweight, scale = words(8, 24), scales(2, 24)
    assert torch.equal(from_gptq(qweight, v1, scale, None, 1)[1], from_gptq(qweight, v2, scale, None, 0)[1])


def test_outputs_that_fill_no_word() -> None:
    qweight, scale = words(8, 12), scales(2, 12)
    zeros = words(2, 2)
    whole = from_gptq(torch.cat((qweight, qweight[:, :4]), 1), zeros, torch.cat((scale, scale[:, :4]), 1), None, 0)[1]
    assert torch.equal(from_gptq(qweight, zeros, scale, None, 0)[1], whole[:12])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("outputs", "inputs", "group"), SHAPES)
def test_awq(outputs: int, inputs: int, group: int, dtype: torch.dtype) -> None:
    qweight, qzeros = words(inputs, outputs // 8), words(inputs // group, outputs // 8, seed=1)
    scale = scales(inputs // group, outputs, dtype=dtype)
    values, zeros, factors = nibbles(qweight), nibbles(qzeros), scale.float().tolist()
    wanted = [[np.float32(0)] * inputs for _ in range(outputs)]
    for i in range(inputs):
        for c in range(outputs // 8):
            for place, column in enumerate(AWQ_COLUMNS):
                value, zero = values[i][c][place], zeros[i // group][c][place]
                wanted[8 * c + column][i] = weight(factors[i // group][8 * c + column], value, zero)
    check(from_awq(qweight, qzeros, scale), group, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("outputs", "inputs", "group"), [*SHAPES, (13, 64, 32)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_compressed_tensors(outputs: int, inputs: int, group: int, dtype: torch.dtype, symmetric: bool) -> None:
    packed, scale = words(outputs, inputs // 8), scales(outputs, inputs // group, dtype=dtype)
    zero_point = None if symmetric else words(-(-outputs // 8), inputs // group, seed=1)
    values, factors = nibbles(packed), scale.float().tolist()
    zeros = None if zero_point is None else nibbles(zero_point)
    wanted = [
        [
            weight(
                factors[o][i // group],
                values[o][i // 8][i % 8] - 8,
                zeros[o // 8][i // group][o % 8] - 8 if zeros else 0,
            )
            for i in range(inputs)
        ]
        for o in range(outputs)
    ]
    check(from_compressed_tensors(packed, scale, zero_point, None), group, wanted)


def test_activation_order_is_refused() -> None:
    order = (torch.arange(64) // 32).flip(0)
    with pytest.raises(LoadError, match="not in plain order"):
        from_gptq(words(8, 8), words(2, 1), scales(2, 8), order, 1)
    with pytest.raises(LoadError, match="not in plain order"):
        from_compressed_tensors(words(8, 8), scales(8, 2), None, order.int())


@pytest.mark.parametrize("order", [torch.zeros(64), torch.zeros(32), torch.arange(64)])
def test_a_strange_order_is_refused(order: Tensor) -> None:
    with pytest.raises(LoadError, match="not in plain order"):
        from_gptq(words(8, 8), words(2, 1), scales(2, 8), order.int(), 1)


@pytest.mark.parametrize(
    ("qweight", "qzeros", "scale", "message"),
    [
        (words(8, 8), words(2, 1), scales(4, 8), "4 groups of scales for 64 inputs"),
        (words(8, 8), words(2, 1), scales(3, 8), "3 groups of scales for 64 inputs"),
        (words(0, 8), words(2, 1), scales(2, 8), "for 0 inputs"),
        (words(8, 8), words(2, 1), scales(0, 8), r"scales is float16 \[0, 8\]"),
        (words(8, 8), words(2, 1), scales(8), r"scales is float16 \[8\]"),
        (words(8, 8), words(2, 1), words(2, 8), r"scales is int32 \[2, 8\]"),
        (words(8, 9), words(2, 1), scales(2, 8), r"qweight is int32 \[8, 9\]; the scales need int32 \[8, 8\]"),
        (words(8, 8).float(), words(2, 1), scales(2, 8), "qweight is float32"),
        (words(8, 8), words(2, 2), scales(2, 8), r"qzeros is int32 \[2, 2\]; the scales need int32 \[2, 1\]"),
    ],
)
def test_what_does_not_fit_is_refused(qweight: Tensor, qzeros: Tensor, scale: Tensor, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        from_gptq(qweight, qzeros, scale, None, 1)


def test_what_does_not_fit_is_refused_elsewhere_too() -> None:
    with pytest.raises(LoadError, match="qweight"):
        from_awq(words(64, 2), words(2, 1), scales(2, 8))
    with pytest.raises(LoadError, match="qzeros"):
        from_awq(words(64, 1), words(1, 1), scales(2, 8))
    with pytest.raises(LoadError, match="weight_packed"):
        from_compressed_tensors(words(9, 8), scales(8, 2), None, None)
    with pytest.raises(LoadError, match="weight_zero_point"):
        from_compressed_tensors(words(8, 8), scales(8, 2), words(8, 2), None)
