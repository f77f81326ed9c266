"""The sampling kernel gives what the torch reference gives, to the last bit, whatever the company and the machine."""

import math
import random
from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.kernels.sampling import reference
from engine.sampling.draw import Draw, Drawn, NoToken
from engine.types import SamplingParams
from tests.kernels.cpu_library import compiled, instruction_sets
from tests.support.memories import normal

ISAS = instruction_sets()
CUTS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {},
    {"temperature": 0.7, "top_p": 0.8, "top_k": 20},
    {"top_k": 1},
    {"top_k": 700},
    {"top_k": 10**9},
    {"top_p": 0.95},
    {"top_p": 1e-9},
    {"top_p": 0.999999, "min_p": 0.001},
    {"min_p": 0.1},
    {"min_p": 1.0, "top_p": 0.5},
    {"temperature": 3.0, "top_p": 0.9, "min_p": 0.02},
    {"temperature": 1e-5},
    {"temperature": 100.0, "top_k": 50, "top_p": 0.6},
]
EXTRAS: list[dict[str, Any]] = [
    {},
    {"logprobs": 0},
    {"logprobs": 7, "logit_bias": {0: 5.0, 3: -100.0, 129: 2.5}},
    {"repetition_penalty": 1.3, "frequency_penalty": 0.7, "presence_penalty": -0.4, "logprobs": 2},
    {"repetition_penalty": 1e-300},
    {"repetition_penalty": 1e300, "presence_penalty": 2.0},
    {"allowed_token_ids": (200, 1, 0, 1, 131)},
    {"allowed_token_ids": (2, 5, 250), "logprobs": 300},
]
SIZES = [(1, 1), (16, 16), (17, 15), (128, 128), (300, 257), (2000, 1900), (20_000, 19_777)]


def _rows(kind: str, vocab: int) -> Tensor:
    noise = normal(4, vocab, seed=vocab)
    match kind:
        case "spread":
            return noise * 3
        case "steep":
            return noise * 20
        case "ties":
            return (noise * 2).round() / 2 * 1.5
        case "equal":
            return torch.zeros(4, vocab)
        case _:
            return torch.where(noise > 0.5, -0.0, 0.0)


def _draw(params: dict[str, Any], vocab: int, rng: random.Random) -> Draw:
    wanted = dict(params)
    for name in ("allowed_token_ids", "logit_bias"):
        if name in wanted:
            ids = [token_id for token_id in wanted[name] if token_id < vocab]
            wanted[name] = {i: wanted[name][i] for i in ids} if name == "logit_bias" else tuple(ids) or (0,)
    if wanted.get("logprobs") is not None:
        wanted["logprobs"] = min(wanted["logprobs"], vocab)
    seen = rng.sample(range(vocab), min(vocab, 50)) if "repetition_penalty" in wanted else []
    return Draw(
        SamplingParams(**wanted),
        uniform=rng.choice([0.0, math.nextafter(1.0, 0.0), rng.random(), rng.random()]),
        seen_ids=array("q", seen),
        seen_counts=array("q", (rng.randrange(3) for _ in seen)),
        barred_token_ids=tuple(rng.sample(range(vocab), min(3, vocab - 1))) if rng.random() < 0.3 else (),
        mask=_mask(vocab, rng) if rng.random() < 0.4 else None,
    )


def _mask(vocab: int, rng: random.Random) -> bytes:
    """Of any length, with bytes of all kinds; token 0 is among those admitted."""
    num_bytes = rng.choice([1, vocab // 8, -(-vocab // 8), -(-vocab // 32) * 4])
    mask = bytearray(rng.choice([0, 255, rng.randrange(256)]) for _ in range(max(1, num_bytes)))
    mask[0] |= 1
    return bytes(mask)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["spread", "steep", "ties", "equal", "zeros"])
@pytest.mark.parametrize(("vocab", "used"), SIZES)
def test_the_same_bits_as_the_reference(isa: str, kind: str, vocab: int, used: int) -> None:
    rng = random.Random(f"{kind} {vocab}")
    for params in rng.sample([cuts | extras for cuts in CUTS for extras in EXTRAS], 20):
        draws = [_draw(params, vocab, rng) for _ in range(4)]
        logits = _rows(kind, vocab)
        truth = reference.sample(logits.clone(), draws, used)
        assert compiled(isa).sample(logits.clone(), draws, used) == truth, params


@pytest.mark.parametrize("isa", ISAS)
def test_a_row_does_not_depend_on_its_company_or_the_threads(isa: str) -> None:
    vocab = 5000
    rng = random.Random(1)
    logits = torch.cat([_rows(kind, vocab) for kind in ("spread", "steep", "ties", "equal", "zeros")])
    draws = [_draw(rng.choice(CUTS) | rng.choice(EXTRAS), vocab, rng) for _ in logits]
    together = compiled(isa, 2).sample(logits.clone(), draws, vocab)
    assert compiled(isa, 1).sample(logits.clone(), draws, vocab) == together
    alone = [compiled(isa, 2).sample(logits[i : i + 1].clone(), [draws[i]], vocab)[0] for i in range(len(logits))]
    assert alone == together


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 15, 16, 127, 128, 298, 299])
def test_logits_that_are_not_finite(isa: str, value: float, at: int) -> None:
    logits = normal(2, 300, seed=5)
    logits[0, at] = value
    draws = [Draw(SamplingParams(logprobs=1, allowed_token_ids=(7,)), 0.5)] * 2
    broken, fine = compiled(isa).sample(logits, draws, 290)
    assert broken is NoToken.NOT_FINITE
    assert isinstance(fine, Drawn)


@pytest.mark.parametrize("isa", ISAS)
def test_when_every_token_is_barred(isa: str) -> None:
    draws = [
        Draw(SamplingParams(logprobs=1), 0.5, barred_token_ids=tuple(range(20))),
        Draw(SamplingParams(temperature=0.0, allowed_token_ids=(25,)), 0.5),
        Draw(SamplingParams(allowed_token_ids=(3,)), 0.5, barred_token_ids=(3,)),
        Draw(SamplingParams(allowed_token_ids=(3,)), 0.5),
    ]
    *none, one = compiled(isa).sample(normal(4, 30, seed=6), draws, 20)
    assert none == [NoToken.ALL_BARRED] * 3
    assert one == Drawn(3)


def test_no_rows() -> None:
    assert compiled(ISAS[0]).sample(torch.empty(0, 30), [], 30) == []


def _ids(outcomes: Sequence[Drawn | NoToken]) -> list[int]:
    return [outcome.token_id for outcome in outcomes if isinstance(outcome, Drawn)]


def test_the_real_vocabulary() -> None:
    """The same bits, and top-p alone as with a top-k that cuts nothing but the smallest."""
    vocab, used = 151_936, 151_669
    logits = normal(6, vocab, seed=2) * 3
    logits[:3, :200] += 15
    logits[3] = logits[3].round()
    draw = Draw(SamplingParams(top_p=0.95, logprobs=20), 0.0)
    draws = [replace(draw, uniform=(0.13 + 0.17 * i) % 1) for i in range(6)]
    drawn = compiled(ISAS[0]).sample(logits.clone(), draws, used)
    assert drawn == reference.sample(logits.clone(), draws, used)
    cut = [replace(one, params=replace(one.params, top_k=used - 1, logprobs=None)) for one in draws]
    assert _ids(compiled(ISAS[0]).sample(logits.clone(), cut, used)) == _ids(drawn)
