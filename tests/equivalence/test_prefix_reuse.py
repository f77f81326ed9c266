"""The promise with a cache, on the real engine: a prompt that was read before gives the same bits as one that was not.

Answers carry the log-probability of every token of the vocabulary, so equal answers mean equal logits.
"""

import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.kernels.choice import choose_kernels
from engine.types import CacheTier, GenerationRequest, SamplingParams
from tests.equivalence.test_promise import TINY
from tests.support.engines import CPU, Answer, random_weights, run

LATER = 1000  # steps: more than any answer takes


@pytest.fixture(
    scope="module",
    params=[(dtype, kernels) for dtype in (torch.float32, torch.bfloat16) for kernels in ("reference", "compiled")],
    ids=lambda param: f"{param[0]}-{param[1]}".removeprefix("torch."),
)
def model(request: pytest.FixtureRequest) -> Any:
    dtype, kernels = request.param
    model = random_weights(TINY, dtype)
    return model if kernels == "reference" else replace(model, kernels=choose_kernels(CPU, dtype, 1))


def _turns(model: Any) -> list[tuple[GenerationRequest, Answer]]:
    """A conversation that goes on with its own answers, each turn computed alone and cold."""
    rng = random.Random(7)
    tokens: tuple[int, ...] = ()
    boundaries: tuple[int, ...] = ()
    turns = []
    for turn, lengths in enumerate([(70, 19), (5,), (1, 33), (64,)]):
        for length in lengths:
            tokens += tuple(rng.randrange(97) for _ in range(length))
            boundaries += (len(tokens),)
        sampling = SamplingParams(max_tokens=9, temperature=float(turn % 2), seed=turn, logprobs=97, ignore_eos=True)
        request = GenerationRequest(f"turn {turn}", (*tokens, 1, 2), sampling, boundaries=boundaries)
        answer = run(model, [(0, request)])[request.request_id]
        turns.append((request, answer))
        tokens = request.prompt_ids + tuple(answer.token_ids)
    return turns


def _same(found: Answer, expected: Answer) -> bool:
    return (found.token_ids, found.logprobs) == (expected.token_ids, expected.logprobs)


def test_each_turn_after_a_restart(model: Any, tmp_path: Path) -> None:
    """Every turn in a process of its own, which finds what the one before left on disk."""
    for number, (request, cold) in enumerate(_turns(model)):
        found = run(model, [(0, request)], num_checkpoints=20, folder=tmp_path)[request.request_id]
        assert _same(found, cold)
        assert found.tier is (CacheTier.DISK if number else None)


def test_each_turn_after_others_took_the_memory(model: Any) -> None:
    """Each goes on from a copy in the host's memory."""
    turns = _turns(model)
    sampling = SamplingParams(max_tokens=3, seed=1)
    others = [GenerationRequest(f"other {i}", (i,) * 300, sampling) for i in range(len(turns))]
    arrivals = [(LATER * i, request) for i, (request, _) in enumerate(turns)]
    arrivals += [(LATER * i + LATER // 2, request) for i, request in enumerate(others)]
    warm = run(model, arrivals, num_blocks=40, num_checkpoints=20, max_host_bytes=1 << 30)
    for number, (request, cold) in enumerate(turns):
        found = warm[request.request_id]
        assert _same(found, cold)
        assert found.tier is (CacheTier.HOST if number else None)


@pytest.mark.parametrize("tokens_per_step", [17, 2048])
def test_a_growing_conversation(model: Any, tokens_per_step: int) -> None:
    turns = _turns(model)
    arrivals = [(LATER * i, request) for i, (request, _) in enumerate(turns)]
    warm = run(model, arrivals, num_checkpoints=20, max_tokens_per_step=tokens_per_step)
    assert all(_same(warm[request.request_id], cold) for request, cold in turns)
    for (request, answer), (following, _) in itertools.pairwise(turns):
        assert warm[following.request_id].num_cached_tokens == len(request.prompt_ids) + len(answer.token_ids) - 1


def test_branches_beside_each_other(model: Any) -> None:
    """Ten requests over one context, some with the same prompt, in chunks, while the context is still being read."""
    rng = random.Random(8)
    context = tuple(rng.randrange(97) for _ in range(90))
    requests = []
    for i in range(10):
        prompt = context + tuple(rng.randrange(97) for _ in range(i // 2 * 7))
        sampling = SamplingParams(max_tokens=6, seed=i, logprobs=97)
        requests.append(GenerationRequest(f"r{i}", (*prompt, 3), sampling, boundaries=(90, len(prompt))))
    cold = {r.request_id: run(model, [(0, r)])[r.request_id] for r in requests}
    arrivals = [(i // 3, r) for i, r in enumerate(requests)]
    warm = run(model, arrivals, num_checkpoints=20, num_slots=4, max_tokens_per_step=40)
    assert all(_same(warm[request_id], answer) for request_id, answer in cold.items())
    assert [warm[r.request_id].num_cached_tokens >= 90 for r in requests] == [False] + [True] * 9


def test_with_hardly_any_memory(model: Any) -> None:
    """Evicted, preempted and restored."""
    turns = _turns(model)
    arrivals = [(LATER * i, request) for i, (request, _) in enumerate(turns)]
    others = [
        GenerationRequest(f"other {i}", tuple(range(i, i + 30)), SamplingParams(max_tokens=20, seed=i, logprobs=97))
        for i in range(6)
    ]
    arrivals += [(LATER * (i // 2), request) for i, request in enumerate(others)]
    warm = run(model, arrivals, num_blocks=34, num_checkpoints=3, num_slots=3, max_tokens_per_step=40)
    cold = {request.request_id: answer for request, answer in turns}
    cold |= {r.request_id: run(model, [(0, r)])[r.request_id] for r in others}
    assert all(_same(warm[request_id], answer) for request_id, answer in cold.items())
