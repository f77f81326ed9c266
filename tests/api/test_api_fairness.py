"""What the engine is told for the order of service: which requests are interactive, and whose they are."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.client import EngineStats
from engine.types import GenerationRequest, SamplingParams
from server.cache_scope import CacheScope
from server.choice import OutputOptions
from server.generation import INTERACTIVE_MAX_TOKENS, INTERACTIVE_PROMPT_TOKENS, GenerationJob
from server.prompts import Prompt
from tests.support.api import CHAT, Api, hello
from tests.support.scripted_engine import INFO, ScriptedEngine

KEYS = ("first-key", "second-key")


def asked(**body: Any) -> list[GenerationRequest]:
    api = Api(engine=ScriptedEngine(info=replace(INFO, max_model_len=10_000)))
    assert api.complete(**body).status_code == 200
    return api.engine.requests


@pytest.mark.parametrize(
    ("num_prompt_tokens", "max_tokens", "is_interactive"),
    [
        (1, 1, True),
        (INTERACTIVE_PROMPT_TOKENS, INTERACTIVE_MAX_TOKENS, True),
        (INTERACTIVE_PROMPT_TOKENS + 1, 1, False),
        (1, INTERACTIVE_MAX_TOKENS + 1, False),
        (1, -1, False),
    ],
)
def test_a_short_prompt_with_a_short_answer_is_interactive(
    num_prompt_tokens: int, max_tokens: int, is_interactive: bool
) -> None:
    (request,) = asked(prompt=[65] * num_prompt_tokens, max_tokens=max_tokens)
    assert request.interactive is is_interactive


def test_choices_of_one_prompt_are_interactive_but_many_prompts_at_once_are_not() -> None:
    assert [r.interactive for r in asked(prompt="a", max_tokens=5, n=2)] == [True, True]
    assert [r.interactive for r in asked(prompt=["a", "b"], max_tokens=5)] == [False, False]


def test_who_asks_how_likely_a_prompt_is_evaluates_a_model() -> None:
    (request,) = asked(prompt=[65, 66], max_tokens=1, echo=True, logprobs=1)
    assert not request.interactive


def test_chats_too() -> None:
    api = Api()
    api.chat(max_tokens=20)
    assert api.asked.interactive
    api.chat()
    assert not api.asked.interactive


def test_a_dialect_may_say_so_of_any_job() -> None:
    api = Api()

    async def start() -> None:
        prompt = Prompt((65,) * 30)
        job = GenerationJob("id", (prompt,), SamplingParams(), OutputOptions(), CacheScope("/", None), interactive=True)
        generation = await api.app.state.service.generator.start(job)
        await generation.aclose()

    asyncio.run(start())
    assert api.asked.interactive


def owner(api: Api, key: str, **body: Any) -> str:
    assert api.post(CHAT, hello(**body), headers={"Authorization": f"Bearer {key}"}).status_code == 200
    found: str = api.asked.owner
    return found


@pytest.mark.parametrize("share", [False, True])
def test_the_owner_is_the_keys_whatever_else_is_shared(share: bool) -> None:
    api = Api(keys=KEYS, share_cache_across_keys=share)
    first, second = (owner(api, key) for key in KEYS)
    assert first != second
    assert owner(api, KEYS[0], cache_salt="a", session_id="b") == first
    assert not any(key in name for key in KEYS for name in (first, second))


def test_without_keys_there_is_one_owner() -> None:
    api = Api()
    assert owner(api, "whatever") == owner(api, "another") == ""


def test_metrics() -> None:
    class HoldingEngine(ScriptedEngine):
        def stats(self) -> EngineStats:
            return replace(super().stats(), num_waiting=5, num_held_back=2)

    api = Api(engine=HoldingEngine())
    for max_tokens in (10, 10, 1000):
        api.chat(max_tokens=max_tokens)
    samples = {
        (s.name, s.labels.get("reason")): s.value
        for family in text_string_to_metric_families(api.get("/metrics").text)
        for s in family.samples
    }
    assert samples["deltaloop:interactive_time_to_first_token_seconds_count", None] == 2
    assert samples["vllm:time_to_first_token_seconds_count", None] == 3
    assert samples["vllm:num_requests_waiting", None] == 5
    assert samples["vllm:num_requests_waiting_by_reason", "capacity"] == 3
    assert samples["vllm:num_requests_waiting_by_reason", "deferred"] == 2
