"""The official anthropic client against a real socket, over scripted answers and over the bundled model."""

import asyncio
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from pydantic import BaseModel

from engine.errors import Overloaded
from engine.types import GenerationRequest
from tests.support.api import Api, live
from tests.support.daemon import Daemon
from tests.support.scripted_engine import TOKENIZER, ScriptedEngine, Step, fail_after, say

MODEL = "tiny-qwen-coder"
BUNDLED = "qwen3-coder-nano"
CAPTURES = Path(__file__).parents[1] / "api" / "data" / "anthropic"
MESSAGES: list[Any] = [{"role": "user", "content": "Rain in Rome?"}]
TOOLS: list[Any] = [
    {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}},
]
CALL = "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>"


def call_then_end(request: GenerationRequest) -> Iterable[Step]:
    prompt = TOKENIZER.decode(request.prompt_ids, skip_special_tokens=False)
    return say("It rains." if "pouring" in prompt else f"I look. {CALL}")(request)


@pytest.fixture
def url() -> Iterator[str]:
    with live(Api(call_then_end, keys=("key",))) as url:
        yield url


def client(url: str, retries: int = 0) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="key", max_retries=retries)


def test_a_tool_loop(url: str) -> None:
    with client(url) as api:
        first = api.messages.create(model=MODEL, max_tokens=400, messages=MESSAGES, tools=TOOLS)
        text, call = first.content
        assert isinstance(text, anthropic.types.TextBlock)
        assert isinstance(call, anthropic.types.ToolUseBlock)
        assert (call.name, call.input, first.stop_reason) == ("weather", {"city": "Rome"}, "tool_use")
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "pouring"}
        turns = [*MESSAGES, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
        second = api.messages.create(model=MODEL, max_tokens=400, messages=turns, tools=TOOLS)
    assert second.content[0].type == "text"
    assert second.content[0].text == "It rains."
    assert second.stop_reason == "end_turn"


def test_a_stream_with_the_helper(url: str) -> None:
    with (
        client(url) as api,
        api.messages.stream(model=MODEL, max_tokens=400, messages=MESSAGES, tools=TOOLS) as stream,
    ):
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == "I look."
    assert final.stop_reason == "tool_use"
    assert final.content[1].type == "tool_use"
    assert final.content[1].input == {"city": "Rome"}
    assert final.usage.output_tokens > 0


def test_the_clients_own_tool_loop(url: str) -> None:
    """It would rather leave the conversation with the server, and goes on without that."""

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """Looks outside.

        Args:
            city: where
        """
        return f"{city}: pouring"

    with client(url) as api:
        runner = api.beta.messages.tool_runner(model=MODEL, max_tokens=400, messages=MESSAGES, tools=[weather])
        answers = list(runner)
    assert [answer.stop_reason for answer in answers] == ["tool_use", "end_turn"]


def test_an_asynchronous_stream_of_the_beta_api(url: str) -> None:
    async def read() -> tuple[list[str], Any]:
        async with (
            anthropic.AsyncAnthropic(base_url=url, auth_token="key", max_retries=0) as api,
            api.beta.messages.stream(
                model=MODEL, max_tokens=400, messages=MESSAGES, tools=TOOLS, betas=["context-management-2025-06-27"]
            ) as stream,
        ):
            kinds = [event.type async for event in stream]
            return kinds, await stream.get_final_message()

    kinds, final = asyncio.run(read())
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert {"text", "input_json", "content_block_stop"} <= set(kinds)
    assert final.content[1].input == {"city": "Rome"}


def test_a_failure_names_its_request(url: str) -> None:
    with client(url) as api:
        answer = api.messages.create(model=MODEL, max_tokens=400, messages=MESSAGES)
        with pytest.raises(anthropic.BadRequestError) as caught:
            api.messages.create(model=MODEL, max_tokens=-1, messages=MESSAGES)
    assert answer._request_id is not None
    assert answer.id == f"msg_{answer._request_id}"
    assert caught.value.request_id == caught.value.body["request_id"]  # type: ignore[index]


def test_counting(url: str) -> None:
    with client(url) as api:
        counted = api.messages.count_tokens(model=MODEL, messages=MESSAGES, tools=TOOLS)
        answer = api.messages.create(model=MODEL, max_tokens=400, messages=MESSAGES, tools=TOOLS)
    assert counted.input_tokens == answer.usage.input_tokens


def test_errors(url: str) -> None:
    with client(url) as api:
        with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 4096 maximum"):
            api.messages.create(model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "x" * 5000}])
        with pytest.raises(anthropic.NotFoundError):
            api.messages.create(model="claude-9", max_tokens=9, messages=MESSAGES)
    with (
        anthropic.Anthropic(base_url=url, api_key="wrong", max_retries=0) as api,
        pytest.raises(anthropic.AuthenticationError),
    ):
        api.messages.create(model=MODEL, max_tokens=9, messages=MESSAGES)


def test_overload_is_retried() -> None:
    engine = ScriptedEngine(say("Hello"), refusal=Overloaded("busy", "max_num_queued_reqs", 0.1))
    with live(Api(engine=engine)) as url, client(url) as api, pytest.raises(anthropic.InternalServerError) as caught:
        api.messages.create(model=MODEL, max_tokens=9, messages=MESSAGES)
    assert caught.value.response.headers["retry-after"] == "1"


def test_a_broken_stream_is_noticed() -> None:
    with live(Api(fail_after("Hel"))) as url, client(url) as api:
        stream = api.messages.create(model=MODEL, max_tokens=9, messages=MESSAGES, stream=True)
        with pytest.raises(anthropic.APIError):
            list(stream)


def test_the_bundled_model_goes_on_where_it_was(daemon: Daemon) -> None:
    system = "You are a careful engineer. " * 40
    with client(daemon.url) as api:
        ask: dict[str, Any] = {"model": BUNDLED, "max_tokens": 40, "system": system}
        first = api.messages.create(messages=MESSAGES, **ask)
        turns = [*MESSAGES, {"role": "assistant", "content": first.content}, *MESSAGES]
        second = api.messages.create(messages=turns, **ask)
    read_before = first.usage.input_tokens + (first.usage.cache_read_input_tokens or 0)
    assert second.usage.cache_read_input_tokens is not None
    assert second.usage.cache_read_input_tokens >= 0.99 * read_before


class Pair(BaseModel):
    left: int
    right: bool


def test_the_bundled_model_is_held_to_a_schema(daemon: Daemon) -> None:
    with client(daemon.url) as api:
        answer = api.messages.parse(model=BUNDLED, max_tokens=200, messages=MESSAGES, output_format=Pair)
    assert isinstance(answer.parsed_output, Pair)


def test_the_bundled_model_has_to_call(daemon: Daemon) -> None:
    choice: Any = {"type": "tool", "name": "weather"}
    with client(daemon.url) as api:
        asked: dict[str, Any] = {"model": BUNDLED, "max_tokens": 300, "messages": MESSAGES, "tools": TOOLS}
        asked |= {"tool_choice": choice, "extra_body": {"temperature": 0}}
        whole = api.messages.create(**asked)
        with api.messages.stream(**asked) as stream:
            streamed = stream.get_final_message()
    assert [block.type for block in whole.content] == ["tool_use"]
    assert whole.stop_reason == streamed.stop_reason == "tool_use"
    assert isinstance(whole.content[0], anthropic.types.ToolUseBlock)
    assert isinstance(streamed.content[0], anthropic.types.ToolUseBlock)
    assert whole.content[0].input == streamed.content[0].input


def test_claude_codes_second_turn_reads_only_what_is_new(daemon: Daemon) -> None:
    """Its captured conversation, with prose as long as the one that was taken out."""
    usages = []
    with client(daemon.url) as api:
        for name in ("claude-code-1", "claude-code-2"):
            body = json.loads((CAPTURES / f"{name}.json").read_text("utf-8"))["body"]
            body["system"][1]["text"] += " Read files before you change them." * 20
            asked = {"model": BUNDLED, "max_tokens": 2, "system": body["system"], "tools": body["tools"]}
            usages.append(api.messages.create(messages=body["messages"], **asked).usage)
    first, second = usages
    assert not first.cache_read_input_tokens
    assert second.cache_read_input_tokens is not None
    assert second.cache_read_input_tokens >= 0.99 * first.input_tokens
