"""The counter-based generator: a number for a key, spread evenly and unrelated between neighbouring keys."""

import math

import pytest

from engine.sampling.random import uniform

N = 4000


def _correlation(xs: list[float], ys: list[float]) -> float:
    return sum((x - 0.5) * (y - 0.5) for x, y in zip(xs, ys, strict=True)) / (len(xs) / 12)


def test_a_key_gives_one_number() -> None:
    assert uniform(1, 2, 3) == uniform(1, 2, 3)
    keys = [(s, c, p) for s in (0, 1, 2, 2**64 - 1) for c in (0, 1, 2) for p in range(50)]
    assert len({uniform(*key) for key in keys}) == len(keys)


def test_numbers_never_change_between_releases() -> None:
    """A seed that a user noted must keep drawing the same tokens."""
    assert uniform(0, 0, 0) == 0.156742553465558
    assert uniform(2**64 - 1, 3, 262143) == 0.549288706300089


@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_even(seed: int) -> None:
    numbers = [uniform(seed, 0, p) for p in range(N)]
    assert all(0.0 <= u < 1.0 for u in numbers)
    assert abs(sum(numbers) / N - 0.5) < 4 / math.sqrt(12 * N)
    bins = [0] * 20
    for u in numbers:
        bins[int(u * 20)] += 1
    assert sum((b - N / 20) ** 2 / (N / 20) for b in bins) < 19 + 4 * math.sqrt(38)


def test_neighbouring_keys_are_unrelated() -> None:
    first = [uniform(7, 0, p) for p in range(N)]
    for other in (
        [uniform(7, 0, p + 1) for p in range(N)],
        [uniform(7, 1, p) for p in range(N)],
        [uniform(8, 0, p) for p in range(N)],
        [uniform(p, 7, 0) for p in range(N)],
    ):
        assert abs(_correlation(first, other)) < 4 / math.sqrt(N)
