"""Making Q8_0 and int4 from dense weights: how far off, and what happens at the edges."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from engine.quant import quantise
from engine.quant.dequantise import dequantise_rows
from engine.quant.formats import BY_NAME, Format, int4_format
from engine.quant.quantise import quantise_int4, quantise_int8

Q8_0 = BY_NAME["Q8_0"]
FORMATS: list[tuple[Format, Callable[[Tensor], Tensor]]] = [
    (Q8_0, quantise_int8),
    (int4_format(32), quantise_int4),
    (int4_format(128), lambda weights: quantise_int4(weights, 128)),
]
BOTH = pytest.mark.parametrize(("format", "quantised"), FORMATS, ids=["int8", "int4", "int4-128"])


def random(num_rows: int, columns: int, heavy: float = 0.0) -> Tensor:
    """Normal weights, some of which are `heavy` times as large again."""
    generator = torch.Generator().manual_seed(columns)
    x = torch.randn(num_rows, columns, generator=generator)
    return x * (1 + heavy * (torch.rand(num_rows, columns, generator=generator) < 0.02))


def squared_error(x: Tensor, y: Tensor, group: int) -> Tensor:
    return (x - y).double().square().view(-1, group).sum(1)


def plain_int4(x: Tensor, group: int) -> Tensor:
    """Round to sixteen steps from the least to the largest of each group and zero."""
    groups = x.view(-1, group)
    low, high = groups.amin(1, keepdim=True).clamp(max=0), groups.amax(1, keepdim=True).clamp(min=0)
    step = (high - low) / 15
    step = torch.where(step > 0, step, 1)
    zero = torch.round(-low / step)
    return (step * (torch.clamp(torch.round(groups / step) + zero, 0, 15) - zero)).view_as(x)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_shape_and_dtype(format: Format, quantised: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    x = random(5, 256).to(dtype)
    rows = quantised(x)
    assert (rows.dtype, rows.shape) == (torch.uint8, (5, format.row_bytes(256)))
    assert torch.equal(rows, quantised(x.float()))
    assert quantised(x[:0]).shape == (0, format.row_bytes(256))


@BOTH
def test_the_argument_stays_as_it_was(format: Format, quantised: Callable[[Tensor], Tensor]) -> None:
    x = random(3, 128)
    quantised(x)
    assert torch.equal(x, random(3, 128))


@pytest.mark.parametrize("scale", [1e-7, 1e-5, 1.0, 1e5])
def test_int8_is_off_by_half_a_step_at_most(scale: float) -> None:
    """Even where the steps are f16 subnormals, some of which are twice as far apart as they are large."""
    x = random(64, 256, heavy=10) * scale
    rows = quantise_int8(x)
    step = rows.view(-1, 34)[:, :2].contiguous().view(torch.float16).float()
    off = (x - dequantise_rows(Q8_0, rows)).abs().view(-1, 32)
    assert (off <= step * 0.5000001).all()
    wanted = x.abs().view(-1, 32).amax(1, keepdim=True) / 127
    assert (step >= wanted).all()
    assert (step <= torch.maximum(wanted * (1 + 2**-10), wanted + 2**-24)).all()


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize(("heavy", "gain"), [(0, 0.06), (3, 0.06), (30, 0.02)])
def test_int4_is_never_worse_than_the_plain_range(group: int, heavy: float, gain: float) -> None:
    x = random(64, 512, heavy)
    y = dequantise_rows(int4_format(group), quantise_int4(x, group))
    plain = squared_error(x, plain_int4(x, group), group)
    found = squared_error(x, y, group)
    assert (found <= plain * (1 + 1e-6)).all()
    assert found.sum() < (1 - gain) * plain.sum()


@pytest.mark.parametrize("group", [32, 128])
def test_int4_error_is_bounded(group: int) -> None:
    """A group's squared error is at most that of values all half a step, a fifteenth of the range, off."""
    x = random(64, 512, heavy=5)
    found = squared_error(x, dequantise_rows(int4_format(group), quantise_int4(x, group)), group)
    groups = x.view(-1, group)
    step = (groups.amax(1).clamp(min=0) - groups.amin(1).clamp(max=0)) / 15
    # The zero point is rounded, so an end of the range may be cut by another half.
    assert (found <= group * (step / 2).square() + step.square()).all()
    relative = (found.sum() / x.double().square().sum()).sqrt()
    assert relative < {32: 0.1, 128: 0.16}[group]


def test_int4_returns_what_it_can_hold() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 16, (32, 32), generator=generator).float()
    values[:, 0], values[:, 1] = 0, 15
    x = (values - torch.arange(32).unsqueeze(1) // 2) * 2.0 ** torch.arange(-16, 16).unsqueeze(1)
    assert torch.equal(dequantise_rows(int4_format(32), quantise_int4(x)), x)


@BOTH
def test_zero_rows(format: Format, quantised: Callable[[Tensor], Tensor]) -> None:
    x = random(4, 256)
    x[1] = 0
    x[2, :128] = -0.0
    y = dequantise_rows(format, quantised(x))
    assert (y[1] == 0).all()
    assert (y[2, :128] == 0).all()
    assert (y[3] != 0).any()


@BOTH
@pytest.mark.parametrize("constant", [3.0, -3.0, 0.1, -1e-3])
def test_constant_rows(format: Format, quantised: Callable[[Tensor], Tensor], constant: float) -> None:
    x = torch.full((2, 256), constant)
    y = dequantise_rows(format, quantised(x))
    assert (y == y[0, 0]).all()
    # int8's scale is rounded up to f16, and may leave half a step; int4's is fp32
    assert abs(y[0, 0].item() / x[0, 0].item() - 1) <= (0.5 / 127 if format == Q8_0 else 3e-7)


@BOTH
def test_one_outlier_costs_its_own_block_alone(format: Format, quantised: Callable[[Tensor], Tensor]) -> None:
    x = random(2, 512)
    before = quantised(x)
    x[0, 200] = 1000.0
    after = quantised(x)
    changed = (before != after).view(2, -1, format.block_bytes).any(-1).nonzero().tolist()
    assert changed == [[0, 200 // format.block]]
    y = dequantise_rows(format, after)
    assert abs(y[0, 200].item() - 1000) < 5


@BOTH
def test_tiny_weights_vanish_or_survive_but_do_no_harm(format: Format, quantised: Callable[[Tensor], Tensor]) -> None:
    for scale in (1e-8, 1e-20, 1e-38, 1e-43):
        x = random(2, 128) * scale
        y = dequantise_rows(format, quantised(x))
        assert y.isfinite().all()
        assert (y - x).abs().max() <= x.abs().max() * 2 or y.abs().max() <= 2.0**-24 * 127


@BOTH
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused(format: Format, quantised: Callable[[Tensor], Tensor], value: float) -> None:
    x = random(2, 128)
    x[1, 77] = value
    with pytest.raises(ValueError, match="not finite"):
        quantised(x)


def test_too_large_for_f16_scales_is_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        quantise_int8(torch.full((1, 32), 65520.0 * 127))


@BOTH
@pytest.mark.parametrize("columns", [1, 31, 33, 100])
def test_columns_are_whole_blocks(format: Format, quantised: Callable[[Tensor], Tensor], columns: int) -> None:
    with pytest.raises(ValueError, match=f"{columns} columns are no multiple of {format.name}'s block"):
        quantised(torch.zeros(2, columns))


@BOTH
def test_bytes_do_not_depend_on_company(
    format: Format, quantised: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = random(37, 384, heavy=4)
    whole = quantised(x)
    assert torch.equal(quantised(x[11:12]), whole[11:12])
    assert torch.equal(quantised(x.t().contiguous().t()), whole)
    for chunk in (128, 384 * 5, 384 * 36):
        monkeypatch.setattr(quantise, "VALUES_AT_ONCE", chunk)
        assert torch.equal(quantised(x), whole)


def test_work_goes_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def recorded(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return torch.zeros(len(x), 21, dtype=torch.uint8)

    monkeypatch.setattr(quantise, "_int4_blocks", recorded)
    quantise_int4(torch.zeros(513, 2048, dtype=torch.bfloat16))
    assert max(sizes) <= quantise.VALUES_AT_ONCE
    assert sum(sizes) == 513 * 2048
