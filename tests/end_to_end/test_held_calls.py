"""Tools of all kinds against real models over a socket: what a client insists on, it gets, or the token limit.

The bundled model and one of random weights, which would never write a call of its own accord.
"""

import asyncio
import json
import re
import shutil
from collections.abc import Iterator
from random import Random
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from server.chat.conversation import Tool
from server.cli import bundled_model
from tests.support.checkpoints import random_tensors, write
from tests.support.daemon import Daemon, running_daemon
from tests.support.tool_schemas import tool

NUM_AT_ONCE = 16
MAX_TOKENS = 300
TEXTS = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


@pytest.fixture(scope="module", params=["bundled", "random"])
def daemon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = bundled_model()
    if request.param == "random":
        config = json.loads((bundled_model() / "config.json").read_text())
        folder = write(tmp_path_factory.mktemp("random"), random_tensors(config), config)
        for name in TEXTS:
            shutil.copy(bundled_model() / name, folder / name)
    with running_daemon(str(folder), "--max-model-len", "32768", "--max-num-seqs", str(NUM_AT_ONCE)) as daemon:
        yield daemon


def _body(tools: list[Tool], seed: int, **more: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": f"Please call a tool, number {seed}."}],
        "tools": [{"type": "function", "function": dict(tool.spec)} for tool in tools] or None,
        "max_tokens": MAX_TOKENS,
        "temperature": 0.8,
        "seed": seed,
        **more,
    }


async def _ask_all(daemon: Daemon, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    limit = asyncio.Semaphore(NUM_AT_ONCE)
    async with httpx.AsyncClient(base_url=daemon.url, timeout=600) as client:

        async def ask(body: dict[str, Any]) -> dict[str, Any]:
            async with limit:
                response = await client.post("/v1/chat/completions", json=body)
            assert response.status_code == 200, (response.text, body)
            choice: dict[str, Any] = response.json()["choices"][0]
            return choice

        return await asyncio.gather(*map(ask, bodies))


def _check(choice: dict[str, Any], tools: list[Tool]) -> int:
    """How many complete calls there are. All of them validate."""
    by_name = {tool.name: tool for tool in tools}
    calls = choice["message"].get("tool_calls") or []
    if choice["finish_reason"] == "length":
        calls = calls[:-1]  # the others are complete
    else:
        assert choice["finish_reason"] == "tool_calls"
        assert calls
        assert not choice["message"]["content"]
    for call in calls:
        arguments = json.loads(call["function"]["arguments"])
        schema = by_name[call["function"]["name"]].parameters
        assert not [e.message for e in Draft202012Validator(schema).iter_errors(arguments)], (arguments, schema)
    return len(calls)


@pytest.mark.parametrize("num_schemas", [16, pytest.param(500, marks=pytest.mark.slow)])
def test_every_complete_call_validates(daemon: Daemon, num_schemas: int) -> None:
    tools = [[tool(Random(seed))] for seed in range(num_schemas)]
    named = {"type": "function", "function": {"name": "tool"}}
    bodies = [_body(t, seed, tool_choice="required" if seed % 2 else named) for seed, t in enumerate(tools)]
    choices = asyncio.run(_ask_all(daemon, bodies))
    num_calls = sum(_check(choice, t) for choice, t in zip(choices, tools, strict=True))
    assert num_calls  # the others reached their limit


def test_sixty_tools_at_once(daemon: Daemon) -> None:
    tools = [tool(Random(number), f"tool_{number}") for number in range(60)]
    bodies = [_body(tools, seed, tool_choice="required") for seed in range(2)]
    assert sum(_check(choice, tools) for choice in asyncio.run(_ask_all(daemon, bodies))) > 0


READ_FILE: dict[str, Any] = {
    "name": "read_file",
    "description": "Read a file",
    "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
}


def test_forbidden_calls_do_not_come_and_the_prompt_is_not_read_again(daemon: Daemon) -> None:
    body = _body([Tool("read_file", READ_FILE)], 0, temperature=0)
    body["messages"][0]["content"] = "Please read src/main.py"
    [choice] = asyncio.run(_ask_all(daemon, [body]))
    is_random = "tool_calls" not in choice["message"]  # the bundled model does what it is asked
    seeds = [{"seed": seed, "temperature": 1.0, "max_tokens": 60} for seed in range(8)]
    response = httpx.post(f"{daemon.url}/v1/chat/completions", json={**body, "tool_choice": "none"}, timeout=600)
    usage = response.json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] > usage["prompt_tokens"] // 2
    for answer in [
        response.json()["choices"][0],
        *asyncio.run(_ask_all(daemon, [{**body, "tool_choice": "none", **seed} for seed in seeds])),
    ]:
        assert answer["finish_reason"] in ("stop", "length")
        assert "tool_calls" not in answer["message"]
        assert not re.search("<tool_call>|<function=", answer["message"]["content"])
        assert is_random or answer["message"]["content"]


@pytest.mark.parametrize("num_schemas", [16, pytest.param(500, marks=pytest.mark.slow)])
def test_every_complete_json_validates(daemon: Daemon, num_schemas: int) -> None:
    schemas = [dict(tool(Random(1000 + seed)).parameters) for seed in range(num_schemas)]
    bodies = [
        _body([], seed, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": s}})
        for seed, s in enumerate(schemas)
    ]
    num_whole = 0
    for choice, schema in zip(asyncio.run(_ask_all(daemon, bodies)), schemas, strict=True):
        if choice["finish_reason"] == "stop":
            num_whole += 1
            value = json.loads(choice["message"]["content"])
            assert not [e.message for e in Draft202012Validator(schema).iter_errors(value)], (value, schema)
    assert num_whole  # the others reached their limit
