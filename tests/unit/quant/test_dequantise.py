"""Every stored format against the `gguf` package, bit for bit, on random bytes."""

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize
from torch import Tensor

from engine.quant import dequantise
from engine.quant.dequantise import codebook, dequantise_rows
from engine.quant.formats import BY_GGML_ID, DENSE, FORMATS, FP8_E4M3, Format, int4_format

STORED = [known for known in FORMATS if known.ggml_id is not None and known not in DENSE]
EVERY = [*STORED, FP8_E4M3, int4_format(64)]
# Where a block has f16 scales; formats not named here have theirs in bytes that are finite whatever they are.
HALVES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
    "IQ2_XXS": (0,), "IQ2_XS": (0,), "IQ2_S": (0,), "IQ3_XXS": (0,), "IQ3_S": (0,), "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip


def random_rows(format: Format, num_rows: int, blocks: int) -> Tensor:
    """Random bytes, with scales of either sign below 2, subnormal ones and zeros included."""
    generator = torch.Generator().manual_seed(format.code)
    rows = torch.randint(0, 256, (num_rows, blocks, format.block_bytes), dtype=torch.uint8, generator=generator)
    for at in HALVES.get(format.name, ()):
        rows[..., at + 1] &= 0b1011_1111
        rows[0, 0, at : at + 2] = 0
        rows[-1, -1, at + 1] &= 0b1000_0011
    if format.code == int4_format(32).code:
        rows[..., 3] = 0x3F
    if format == FP8_E4M3:
        rows &= 0x77
    return rows.flatten(1)


def expected(format: Format, rows: Tensor) -> Tensor:
    assert format.ggml_id is not None
    with np.errstate(all="ignore"):
        return torch.from_numpy(dequantize(rows.numpy(), gguf.GGMLQuantizationType(format.ggml_id)))


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype == torch.float32 and torch.equal(a.view(torch.int32), b.view(torch.int32))


@pytest.mark.parametrize("format", STORED, ids=[known.name for known in STORED])
def test_as_the_gguf_package_does_it(format: Format) -> None:
    rows = random_rows(format, 33, 5)
    wanted = expected(format, rows)
    assert not wanted.isnan().any()
    assert same_bits(dequantise_rows(format, rows), wanted)


@pytest.mark.parametrize("format", FORMATS, ids=[known.name for known in FORMATS])
def test_blocks_are_as_large_as_ggml_says(format: Format) -> None:
    if format == FP8_E4M3:
        assert (format.block, format.block_bytes) == (1, 1)
    else:
        assert format.ggml_id is not None
        assert BY_GGML_ID[format.ggml_id] is format
        known = gguf.GGMLQuantizationType(format.ggml_id)
        assert (known.name, gguf.GGML_QUANT_SIZES[known]) == (format.name, (format.block, format.block_bytes))


def test_fp8() -> None:
    def value(code: int) -> float:
        sign, exponent, mantissa = -1.0 if code & 128 else 1.0, code >> 3 & 15, code & 7
        return sign * (mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10))

    codes = torch.arange(256, dtype=torch.uint8)
    values = dequantise_rows(FP8_E4M3, codes.view(4, 64)).flatten()
    numbers = codes & 127 != 127
    assert values[~numbers].isnan().all()
    assert same_bits(values[numbers], torch.tensor([value(int(code)) for code in codes[numbers]]))


@pytest.mark.parametrize("format", EVERY, ids=[known.name for known in EVERY])
def test_the_way_rows_lie_and_are_cut_does_not_matter(format: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_rows(format, 9, 2)
    whole = dequantise_rows(format, rows)
    wide = torch.zeros(9, rows.shape[1] + 3, dtype=torch.uint8)
    wide[:, 1:-2] = rows
    assert same_bits(dequantise_rows(format, wide[:, 1:-2]), whole)
    assert same_bits(dequantise_rows(format, rows[::2]), whole[::2].contiguous())
    assert same_bits(dequantise_rows(format, wide[4:5, 1:-2]), whole[4:5])
    assert dequantise_rows(format, rows[:0]).shape == (0, whole.shape[1])
    for chunk in (1, 2 * whole.shape[1], 4 * whole.shape[1]):
        monkeypatch.setattr(dequantise, "CHUNK_VALUES", chunk)
        assert same_bits(dequantise_rows(format, rows), whole)


@pytest.mark.parametrize("format", EVERY, ids=[known.name for known in EVERY])
def test_values_are_where_the_bytes_are(format: Format) -> None:
    """The meta device stands for all others: it refuses to meet tensors of the CPU."""
    values = dequantise_rows(format, random_rows(format, 2, 3).to("meta"))
    assert (values.device.type, values.dtype, values.shape) == ("meta", torch.float32, (2, 3 * format.block))


@pytest.mark.parametrize("format", DENSE, ids=[known.name for known in DENSE])
def test_dense_formats_are_refused(format: Format) -> None:
    with pytest.raises(ValueError, match=f"{format.name} is not a quantised format"):
        dequantise_rows(format, torch.zeros(1, 4, dtype=torch.uint8))


def test_half_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="rows of 30 bytes are no multiple of INT4_32's 21"):
        dequantise_rows(int4_format(32), torch.zeros(1, 30, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("name", "shape", "levels"),
    [
        ("IQ2_XXS", (256, 8), {8, 25, 43}),
        ("IQ2_XS", (512, 8), {8, 25, 43}),
        ("IQ2_S", (1024, 8), {8, 25, 43}),
        ("IQ3_XXS", (256, 4), {4, 12, 20, 28, 36, 44, 52, 62}),
        ("IQ3_S", (512, 4), {1, 3, 5, 7, 9, 11, 13, 15}),
    ],
)
def test_codebooks(name: str, shape: tuple[int, int], levels: set[int]) -> None:
    table = codebook(name)
    assert (table.dtype, tuple(table.shape), table.is_contiguous()) == (torch.uint8, shape, True)
    assert set(table.flatten().tolist()) == levels
    assert table.unique(dim=0).shape == shape


def test_formats_without_a_codebook_say_so() -> None:
    with pytest.raises(ValueError, match="Q4_K has no codebook"):
        codebook("Q4_K")
