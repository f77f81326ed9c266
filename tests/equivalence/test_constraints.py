"""The promise with constraints: what is held to a grammar is the same in any company, and fits it."""

import json
import random
import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from engine.constraints.constraints import Constraints
from engine.kernels.choice import choose_kernels
from engine.types import Constraint, FinishReason, GenerationRequest, SamplingParams, Vocabulary
from tests.equivalence.test_promise import TINY
from tests.support.engines import CPU, Answer, random_weights, run

EOS = 96
TOKENS = [*(bytes([byte]) for byte in range(32, 127)), b"\n", b"<end>"]
JSON = Constraint(
    'start: %json {"type": "object", "properties": {"a": {"type": "integer", "maximum": 99, "minimum": 0}, '
    '"b": {"enum": ["x", "yy"]}}, "required": ["a", "b"], "additionalProperties": false, '
    '"x-guidance": {"whitespace_flexible": false}}\n'
)
DATE = Constraint("start: /[0-9]{4}-[0-9]{2}-[0-9]{2}/\n")
STRETCHES = Constraint('start: "q" ("12" | "345") "."\n', r"(?P<held>q)\Z")


def constraints() -> Constraints:
    known = {token: i for i, token in enumerate(TOKENS)}
    return Constraints(
        lambda: Vocabulary(TOKENS, [EOS], lambda text: [known[bytes([b])] for b in text.encode()]), (EOS,)
    )


@pytest.fixture(scope="module", params=["reference", "compiled"])
def model(request: pytest.FixtureRequest) -> Any:
    model = random_weights(TINY | {"eos_token_id": EOS}, torch.float32)
    return model if request.param == "reference" else replace(model, kernels=choose_kernels(CPU, torch.float32, 1))


def _requests() -> list[GenerationRequest]:
    rng = random.Random(3)
    common = tuple(rng.randrange(96) for _ in range(40))
    requests = []
    for i in range(12):
        prompt = common + tuple(rng.randrange(96) for _ in range(rng.randrange(20)))
        sampling = SamplingParams(max_tokens=60, temperature=1.5 * (i % 2), seed=i, logprobs=97)
        constraint = [JSON, DATE, STRETCHES, None][i % 4]
        requests.append(
            GenerationRequest(f"r{i}", (*prompt, 5), sampling, boundaries=(40, len(prompt)), constraint=constraint)
        )
    return requests


def _text(answer: Answer) -> str:
    return b"".join(TOKENS[i] for i in answer.token_ids if i != EOS).decode()


def _alone(model: Any) -> dict[str, Answer]:
    return {r.request_id: run(model, [(0, r)], constraints=constraints())[r.request_id] for r in _requests()}


def test_held_answers_fit(model: Any) -> None:
    alone = _alone(model)
    for number, answer in enumerate(alone.values()):
        text = _text(answer)
        if number % 4 == 0:
            assert set(json.loads(text)) == {"a", "b"}
            assert answer.finish_reason is FinishReason.STOP
        elif number % 4 == 1:
            assert re.fullmatch(r"\d{4}-\d\d-\d\d", text)
            assert answer.finish_reason is FinishReason.STOP
        elif number % 4 == 2:
            assert re.fullmatch(r"([^q]|q(12|345)\.)*(q1?2?3?4?5?)?", text, re.DOTALL)
    stretches = "".join(_text(answer) for number, answer in enumerate(alone.values()) if number % 4 == 2)
    assert "q" in stretches


@pytest.mark.parametrize(
    "company",
    [
        {},
        {"max_tokens_per_step": 17},
        {"num_checkpoints": 10},
        {"num_slots": 3, "num_blocks": 34, "num_checkpoints": 3, "max_tokens_per_step": 40},
    ],
    ids=["batched", "chunked", "cached", "preempted"],
)
def test_the_same_in_any_company(model: Any, company: dict[str, int]) -> None:
    alone = _alone(model)
    together = run(model, [(i // 5, r) for i, r in enumerate(_requests())], constraints=constraints(), **company)
    for request_id, answer in alone.items():
        assert together[request_id].token_ids == answer.token_ids
        assert together[request_id].logprobs == answer.logprobs
