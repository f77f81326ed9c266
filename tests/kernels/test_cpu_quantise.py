"""The compiled quantiser makes the very bytes of the reference, from every dense format, at every size."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from engine.quant.formats import Format, int4_format
from engine.quant.matrix import Matrix, dense_matrix
from engine.quant.quantise import Q8_0, quantise
from tests.kernels.cpu_library import compiled, instruction_sets
from tests.support.memories import normal

ISAS = pytest.mark.parametrize("isa", instruction_sets())
FORMATS = pytest.mark.parametrize("format", [Q8_0, int4_format(32)], ids=lambda format: format.name)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SIZES = ((1, 32), (3, 64), (5, 96), (7, 512), (33, 2048))  # 1, 6, 15, 112 and 2112 blocks


def same(ours: Matrix, theirs: Matrix) -> bool:
    assert (ours.format, ours.rows, ours.columns) == (theirs.format, theirs.rows, theirs.columns)
    assert all(part.is_contiguous() for part in ours.parts)
    return len(ours.parts) == len(theirs.parts) and all(map(torch.equal, ours.parts, theirs.parts))


def edges(values: Tensor) -> Tensor:
    """The same with a row of zeros, one without negative numbers, and one block in which one number dwarfs the rest."""
    values[1:2] = 0
    values[2:3] = values[2:3].abs()
    values[-1, 7] *= 100
    return values


@ISAS
@FORMATS
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-42, 1e-7, 0.02, 100.0])
def test_the_same_bytes_as_the_reference(isa: str, format: Format, dtype: torch.dtype, scale: float) -> None:
    for rows, columns in SIZES:
        stack = dense_matrix(*(edges(normal(rows, columns, seed=i) * scale).to(dtype) for i in range(3)))
        assert same(compiled(isa).quantise(stack, format), quantise(stack, format))


@ISAS
@FORMATS
def test_matrices_anywhere_in_memory(isa: str, format: Format) -> None:
    """As parts of a file: at odd addresses, out of order, one of them twice."""
    data = torch.randint(0, 64, (4 * 2048 + 2,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    parts = [data[start : start + 2048].view(16, 128) for start in (4097, 1, 4097, 2050)]
    stack = Matrix(dense_matrix(torch.zeros(1, 1).bfloat16()).format, 16, 64, tuple(parts))
    aligned = Matrix(stack.format, 16, 64, tuple(part.clone() for part in parts))
    assert same(compiled(isa).quantise(stack, format), quantise(aligned, format))


@ISAS
@FORMATS
@pytest.mark.parametrize("values", [[float("nan")], [float("inf")], [-float("inf"), 1.0], [3e38, -3e38]])
def test_what_has_no_scale_is_refused(isa: str, format: Format, values: Sequence[float]) -> None:
    for row, column in ((0, 0), (4, 33), (4, 62)):
        weights = normal(5, 64, seed=3)
        weights[row, column : column + len(values)] = torch.tensor(values)
        with pytest.raises(ValueError, match="not finite, or too large"):
            compiled(isa).quantise(dense_matrix(normal(5, 64, seed=4), weights), format)


@ISAS
def test_the_largest_scale_and_one_beyond(isa: str) -> None:
    fits = dense_matrix(torch.full((1, 32), 65504.0 * 127))
    assert same(compiled(isa).quantise(fits, Q8_0), quantise(fits, Q8_0))
    with pytest.raises(ValueError, match="too large"):
        compiled(isa).quantise(dense_matrix(torch.full((1, 32), 65520.0 * 127)), Q8_0)
