"""The written-out functions against torch's in fp64, at the extremes too, and the tiles."""

import math

import pytest
import torch
import torch.nn.functional as F

from engine.kernels.exact import TILE_ROWS, sigmoid, silu, softplus, tiles
from tests.support.memories import NAN, ROWS, normal

X = torch.cat([normal(500, seed=1) * 8, torch.linspace(-110, 110, 441)])


def test_sigmoid() -> None:
    torch.testing.assert_close(sigmoid(X).double(), torch.sigmoid(X.double()), rtol=1e-6, atol=1e-38)
    assert sigmoid(torch.tensor([-1e30, -math.inf, 0.0, 1e30, math.inf])).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


def test_silu() -> None:
    torch.testing.assert_close(silu(X).double(), F.silu(X.double()), rtol=1e-6, atol=1e-36)
    assert silu(torch.tensor([-1e30, 0.0, 1e30])).tolist() == [0.0, 0.0, torch.tensor(1e30).item()]


def test_softplus() -> None:
    truth = torch.logaddexp(X.double(), torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(softplus(X).double(), truth, rtol=1e-6, atol=1e-38)
    assert softplus(torch.tensor([-1e30, 1e30])).tolist() == [0.0, torch.tensor(1e30).item()]


@pytest.mark.parametrize("function", [sigmoid, silu, softplus])
def test_nan_stays_nan(function: object) -> None:
    assert function(torch.tensor([NAN])).isnan().all()  # type: ignore[operator]


@pytest.mark.parametrize("num_rows", ROWS)
def test_tiles_cover_all_rows_once_and_are_padded_with_zeros(num_rows: int) -> None:
    x = normal(num_rows, 5, seed=1)
    seen = []
    for rows, tile in tiles(x):
        assert tile.shape == (TILE_ROWS, 5)
        length = rows.stop - rows.start
        assert torch.equal(tile[:length], x[rows])
        assert not tile[length:].any()
        seen += list(range(rows.start, rows.stop))
    assert seen == list(range(num_rows))
