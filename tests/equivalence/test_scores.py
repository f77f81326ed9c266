"""The promise for scores: a prompt's log-probabilities are the same bits however it is cut, and whoever is beside it.

They come with those of every token of the vocabulary, so equal scores mean equal logits at every position.
"""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from engine.kernels.choice import choose_kernels
from engine.types import FinishReason, GenerationRequest, SamplingParams
from tests.equivalence.test_promise import REAL_SHAPES, TINY
from tests.support.engines import CPU, Answer, random_weights, run

VOCAB = 97


@pytest.fixture(
    scope="module",
    params=[(dtype, kernels) for dtype in (torch.float32, torch.bfloat16) for kernels in ("reference", "compiled")],
    ids=lambda param: f"{param[0]}-{param[1]}".removeprefix("torch."),
)
def model(request: pytest.FixtureRequest) -> Any:
    dtype, kernels = request.param
    model = random_weights(TINY, dtype)
    return model if kernels == "reference" else replace(model, kernels=choose_kernels(CPU, dtype, 1))


def _requests(num: int = 8, longest: int = 150) -> list[GenerationRequest]:
    """Prompts of all lengths, with and without an answer."""
    rng = random.Random(6)
    lengths = [longest, 1, 2, 16, 17, 65, 66, 129]
    return [
        GenerationRequest(
            f"r{i}",
            tuple(rng.randrange(VOCAB) for _ in range(length)),
            SamplingParams(max_tokens=i % 3, temperature=0.0, prompt_logprobs=VOCAB, logprobs=VOCAB, ignore_eos=True),
        )
        for i, length in enumerate(lengths[:num])
    ]


def _alone(model: Any, requests: list[GenerationRequest]) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    for request in requests:
        answers |= run(model, [(0, request)])
    for request in requests:
        scored = [score.token_id for score in answers[request.request_id].prompt_logprobs]
        assert scored == list(request.prompt_ids[1:])
    return answers


def _assert_same(found: dict[str, Answer], expected: dict[str, Answer]) -> None:
    for request_id, answer in found.items():
        assert answer.prompt_logprobs == expected[request_id].prompt_logprobs
        assert answer.token_ids == expected[request_id].token_ids
        assert answer.logprobs == expected[request_id].logprobs
        assert answer.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("tokens_per_step", [17, 40, 64, 2048])
def test_in_company_and_in_chunks(model: Any, tokens_per_step: int) -> None:
    requests = _requests()
    plain = [
        GenerationRequest(f"p{i}", tuple(range(i, i + 20)), SamplingParams(max_tokens=30, seed=i, ignore_eos=True))
        for i in range(4)
    ]
    company = [(i // 2, r) for i, r in enumerate([*plain, *requests])]
    found = run(model, company, max_tokens_per_step=tokens_per_step)
    _assert_same({r.request_id: found[r.request_id] for r in requests}, _alone(model, requests))
    unscored = run(model, [(0, r) for r in plain])
    assert all(found[r.request_id].token_ids == unscored[r.request_id].token_ids for r in plain)


def test_preempted(model: Any) -> None:
    sampling = SamplingParams(max_tokens=60, seed=3, ignore_eos=True)
    busy = [GenerationRequest(f"b{i}", (i, 5), sampling, priority=-1) for i in range(2)]
    requests = _requests(1, longest=60)
    expected = _alone(model, requests)
    for num_checkpoints in (0, 8):
        arrivals = [(0, r) for r in [*busy, *requests]]
        found = run(model, arrivals, num_blocks=12, num_checkpoints=num_checkpoints, max_tokens_per_step=5)
        assert found["r0"].num_preemptions > 0
        _assert_same({"r0": found["r0"]}, expected)


def test_a_generated_token_scores_in_a_prompt_what_it_scored_when_it_was_drawn(model: Any) -> None:
    prompt = tuple(range(7, 40))
    drawn = SamplingParams(max_tokens=40, temperature=0.8, seed=1, logprobs=VOCAB, ignore_eos=True)
    answer = run(model, [(0, GenerationRequest("drawn", prompt, drawn))])["drawn"]
    scored = SamplingParams(max_tokens=0, prompt_logprobs=VOCAB)
    request = GenerationRequest("scored", (*prompt, *answer.token_ids), scored)
    assert run(model, [(0, request)])["scored"].prompt_logprobs[len(prompt) - 1 :] == answer.logprobs


def test_what_is_asked_beside_the_score_changes_no_bit_of_it(model: Any) -> None:
    prompt = tuple(range(50))
    (many,) = run(
        model, [(0, GenerationRequest("r", prompt, SamplingParams(max_tokens=1, prompt_logprobs=20)))]
    ).values()
    (none,) = run(
        model, [(0, GenerationRequest("r", prompt, SamplingParams(max_tokens=0, prompt_logprobs=0)))]
    ).values()
    assert [s.logprob for s in none.prompt_logprobs] == [s.logprob for s in many.prompt_logprobs]
    assert all(s.top == () for s in none.prompt_logprobs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_at_the_real_matrix_shapes_with_two_threads(dtype: torch.dtype) -> None:
    torch.set_num_threads(2)
    try:
        requests, reference = _requests(4, longest=37), random_weights(REAL_SHAPES, dtype)
        for model in (reference, replace(reference, kernels=choose_kernels(CPU, dtype, 2))):
            arrivals = [(i, request) for i, request in enumerate(requests)]
            _assert_same(run(model, arrivals, max_tokens_per_step=23), _alone(model, requests))
    finally:
        torch.set_num_threads(1)
