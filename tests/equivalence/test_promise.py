"""The promise on the real engine: the same request gives the same bits, whatever else the server is doing.

Answers carry the log-probability of every token of the vocabulary, so equal answers mean equal logits.
"""

import math
import random
from typing import Any

import pytest
import torch

from engine.types import FinishReason, GenerationRequest, SamplingParams
from tests.support.engines import Answer, random_weights, run

TINY: dict[str, Any] = {
    "architectures": ["Qwen3NextForCausalLM"],
    "model_type": "qwen3_next",
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "full_attention_interval": 4,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rope_theta": 5e6,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 32,
}
REAL_SHAPES = TINY | {
    "hidden_size": 2048,
    "num_attention_heads": 16,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
}


def _requests(num: int, vocab_size: int, longest: int, num_tokens: int) -> list[GenerationRequest]:
    """Half greedy, half sampled with penalties and seeds, of all lengths."""
    rng = random.Random(4)
    requests = []
    for i in range(num):
        sampling = SamplingParams(
            max_tokens=rng.randint(1, num_tokens),
            temperature=0.0 if i % 2 else 1.3,
            top_k=0 if i % 3 else 20,
            top_p=0.9 if i % 5 == 0 else 1.0,
            repetition_penalty=1.2 if i % 4 == 0 else 1.0,
            seed=i,
            logprobs=vocab_size,
        )
        prompt = tuple(rng.randrange(vocab_size) for _ in range(rng.choice([1, 2, 15, 16, 17, longest])))
        requests.append(GenerationRequest(f"r{i}", prompt, sampling))
    return requests


def _alone(model: Any, requests: list[GenerationRequest]) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    for request in requests:
        answers |= run(model, [(0, request)])
    return answers


def _assert_same(answers: dict[str, Answer], expected: dict[str, Answer]) -> None:
    for request_id, answer in answers.items():
        assert answer.token_ids == expected[request_id].token_ids
        assert answer.logprobs == expected[request_id].logprobs
        assert answer.finish_reason == expected[request_id].finish_reason


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def tiny(request: pytest.FixtureRequest) -> tuple[Any, list[GenerationRequest], dict[str, Answer]]:
    model = random_weights(TINY, request.param)
    requests = _requests(16, 97, longest=70, num_tokens=24)
    return model, requests, _alone(model, requests)


def test_among_sixteen(tiny: Any) -> None:
    model, requests, alone = tiny
    _assert_same(run(model, [(0, r) for r in requests]), alone)


@pytest.mark.parametrize("tokens_per_step", [17, 23, 64])
def test_chunked(tiny: Any, tokens_per_step: int) -> None:
    model, requests, alone = tiny
    _assert_same(run(model, [(0, r) for r in requests], max_tokens_per_step=tokens_per_step), alone)


def test_any_order_of_arrival(tiny: Any) -> None:
    model, requests, alone = tiny
    rng = random.Random(9)
    for _ in range(3):
        _assert_same(run(model, [(rng.randrange(30), r) for r in rng.sample(requests, 16)], num_slots=5), alone)


def test_preempted(tiny: Any) -> None:
    model, _, _ = tiny
    sampling = SamplingParams(max_tokens=40, seed=3, logprobs=97)
    requests = [GenerationRequest(f"p{i}", tuple(range(i, i + 9)), sampling) for i in range(6)]
    answers = run(model, [(0, r) for r in requests], num_blocks=14, max_tokens_per_step=40)
    assert sum(a.num_preemptions for a in answers.values()) > 3
    _assert_same(answers, _alone(model, requests))


@pytest.mark.parametrize("tokens_per_step", [23, 2048])
def test_beside_one_whose_logits_are_not_finite(tokens_per_step: int) -> None:
    model = random_weights(TINY, torch.float32)
    poison = 96
    model.embedding.dense()[poison] = math.nan
    sampling = SamplingParams(max_tokens=20, seed=3, logprobs=96, logit_bias={poison: -100.0}, temperature=0.5)
    requests = [GenerationRequest(f"r{i}", tuple(range(i, i + 20)), sampling) for i in range(6)]
    alone = _alone(model, requests)
    poisoned = GenerationRequest("poisoned", (5, 6, poison, 7), sampling)
    company = [(0, requests[0]), (0, requests[1]), (2, poisoned), *((2, r) for r in requests[2:])]
    answers = run(model, company, num_slots=4, max_tokens_per_step=tokens_per_step)
    failed = answers.pop("poisoned")
    assert (failed.token_ids, failed.finish_reason) == ([], FinishReason.ERROR)
    _assert_same(answers, alone)


@pytest.mark.parametrize(
    "dtype", [pytest.param(torch.float32, marks=pytest.mark.slow, id="fp32"), pytest.param(torch.bfloat16, id="bf16")]
)
def test_at_the_real_matrix_shapes_with_two_threads(dtype: torch.dtype) -> None:
    torch.set_num_threads(2)
    try:
        model = random_weights(REAL_SHAPES, dtype)
        requests = _requests(6, 97, longest=37, num_tokens=4)
        alone = _alone(model, requests)
        _assert_same(run(model, [(0, r) for r in requests]), alone)
        _assert_same(run(model, [(i, r) for i, r in enumerate(requests)], max_tokens_per_step=20), alone)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("num_checkpoints", [0, 6])
@pytest.mark.parametrize("num_blocks", [19, 200])
def test_while_interactive_ones_go_ahead(tiny: Any, num_blocks: int, num_checkpoints: int) -> None:
    """One slot, and with few blocks who reads has to make way; every answer is as alone, whoever went ahead."""
    model, _, _ = tiny
    sampling = SamplingParams(max_tokens=12, seed=3, logprobs=97, temperature=1.0, ignore_eos=True)
    agents = [GenerationRequest(f"a{i}", tuple((i + j) % 97 for j in range(130)), sampling) for i in (0, 40)]
    shorts = [
        GenerationRequest(f"s{i}", tuple((7 * i + j) % 97 for j in range(9 + i)), sampling, interactive=True)
        for i in range(5)
    ]
    arrivals = [(0, agents[0]), (1, agents[1]), *((2 + 4 * i, request) for i, request in enumerate(shorts))]
    sizes = {"num_slots": 1, "num_blocks": num_blocks, "num_checkpoints": num_checkpoints, "max_tokens_per_step": 24}
    answers = run(model, arrivals, **sizes)
    _assert_same(answers, _alone(model, [*agents, *shorts]))
    made_way = sum(a.num_preemptions for a in answers.values())
    assert bool(made_way) == bool(num_checkpoints and num_blocks == 19)
