"""The official openai client's responses against a real socket: scripted answers, and the bundled model."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseFunctionToolCall

from engine.errors import Overloaded
from engine.types import GenerationRequest
from tests.support.api import Api, eventually, live
from tests.support.daemon import Daemon
from tests.support.orders import NEVER_CUT_OFF, Order
from tests.support.scripted_engine import TOKENIZER, ScriptedEngine, Step, fail_after, say

SCRIPTED, BUNDLED = "tiny-qwen-coder", "qwen3-coder-nano"
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
CALL = "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>"
QUESTION = "What is the weather in Rome?"


def call_then_end(request: GenerationRequest) -> Iterable[Step]:
    prompt = TOKENIZER.decode(request.prompt_ids, skip_special_tokens=False)
    return say("It rains." if "pouring" in prompt else f"I look. {CALL}")(request)


@pytest.fixture
def url() -> Iterator[str]:
    with live(Api(call_then_end, keys=("key",))) as url:
        yield url


def client(url: str, retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="key", max_retries=retries, timeout=60)


def call_in(response: Response) -> ResponseFunctionToolCall:
    [call] = [item for item in response.output if item.type == "function_call"]
    return call


def test_a_tool_loop_that_is_kept_here(url: str) -> None:
    with client(url) as api:
        first = api.responses.create(model=SCRIPTED, input=QUESTION, tools=[WEATHER], instructions="Be kind.")
        assert (first.status, first.output_text) == ("completed", "I look.")
        call = call_in(first)
        assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Rome"})
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "pouring"}
        second = api.responses.create(model=SCRIPTED, input=[result], previous_response_id=first.id, tools=[WEATHER])
        assert second.output_text == "It rains."
        assert api.responses.retrieve(second.id).output_text == "It rains."
        assert [item.type for item in api.responses.input_items.list(first.id)] == ["message"]
        api.responses.delete(second.id)
        with pytest.raises(openai.NotFoundError):
            api.responses.retrieve(second.id)


def test_a_tool_loop_that_the_client_keeps(url: str) -> None:
    with client(url) as api:
        ask: dict[str, Any] = {"model": SCRIPTED, "tools": [WEATHER], "store": False}
        first = api.responses.create(input=QUESTION, **ask)
        items: list[Any] = [{"role": "user", "content": QUESTION}, *(item.to_dict() for item in first.output)]
        items.append({"type": "function_call_output", "call_id": call_in(first).call_id, "output": "pouring"})
        assert api.responses.create(input=items, **ask).output_text == "It rains."
        with pytest.raises(openai.NotFoundError):
            api.responses.retrieve(first.id)


def test_a_stream_with_the_helper(url: str) -> None:
    with client(url) as api, api.responses.stream(model=SCRIPTED, input=QUESTION, tools=[WEATHER]) as stream:
        events = list(stream)
        final = stream.get_final_response()
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    arguments = [event for event in events if event.type == "response.function_call_arguments.delta"]
    assert text == final.output_text == "I look."
    assert arguments[-1].snapshot == call_in(final).arguments == '{"city": "Rome"}'
    assert final.usage is not None
    assert final.usage.total_tokens == final.usage.input_tokens + final.usage.output_tokens


def test_a_tool_of_free_text() -> None:
    text = "<tool_call>\n<function=patch>\n<parameter=input>\n+a\n+b\n</parameter>\n</function>\n</tool_call>"
    with live(Api(say(text))) as url, client(url) as api:
        stream = api.responses.create(
            model=SCRIPTED, input="x", tools=[{"type": "custom", "name": "patch"}], stream=True
        )
        events = list(stream)
    deltas = "".join(event.delta for event in events if event.type == "response.custom_tool_call_input.delta")
    assert events[-1].type == "response.completed"
    [call] = events[-1].response.output
    assert call.type == "custom_tool_call"
    assert (call.name, call.input, deltas) == ("patch", "+a\n+b", "+a\n+b")


def test_counting(url: str) -> None:
    with client(url) as api:
        counted = api.responses.input_tokens.count(model=SCRIPTED, input=QUESTION, tools=[WEATHER])
        answer = api.responses.create(model=SCRIPTED, input=QUESTION, tools=[WEATHER])
    assert answer.usage is not None
    assert counted.input_tokens == answer.usage.input_tokens


def test_cancelling() -> None:
    scripted = Api(say("x" * 2000, delay=0.01))
    with live(scripted) as url, client(url) as api:
        stream = api.responses.create(model=SCRIPTED, input="x", stream=True)
        created = next(iter(stream))
        assert created.type == "response.created"
        assert api.responses.cancel(created.response.id).status == "cancelled"
        with pytest.raises(openai.APIError):
            list(stream)
        assert eventually(lambda: not scripted.engine.running)
        assert api.responses.retrieve(created.response.id).status == "cancelled"
        with pytest.raises(openai.BadRequestError):
            api.responses.cancel(created.response.id)


def test_errors_have_their_classes(url: str) -> None:
    with client(url) as api:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as caught:
                api.responses.create(model=SCRIPTED, input="x" * 5000, stream=stream)
            assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")
        with pytest.raises(openai.BadRequestError) as caught:
            api.responses.create(model=SCRIPTED, input="x", previous_response_id="resp_0")
        assert caught.value.code == "previous_response_not_found"
        with pytest.raises(openai.NotFoundError):
            api.responses.create(model="gpt-4", input="x")
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0) as api,
        pytest.raises(openai.AuthenticationError),
    ):
        api.responses.create(model=SCRIPTED, input="x")


def test_overload_says_when_to_come_again() -> None:
    engine = ScriptedEngine(say("Hello"), refusal=Overloaded("busy", "max_num_queued_reqs", 0.1))
    with live(Api(engine=engine)) as url, client(url) as api, pytest.raises(openai.InternalServerError) as caught:
        api.responses.create(model=SCRIPTED, input="x")
    assert caught.value.response.headers["retry-after"] == "1"


def test_a_broken_stream_is_noticed() -> None:
    with live(Api(fail_after("Hel"))) as url, client(url) as api:
        kinds: list[str] = []
        stream = api.responses.create(model=SCRIPTED, input="x", stream=True)
        with pytest.raises(openai.APIError):
            kinds.extend(event.type for event in stream)
    assert (kinds[0], kinds[-1]) == ("response.created", "response.failed")


@pytest.mark.parametrize("seed", [1, 2])
def test_the_bundled_model_fills_in_a_form(daemon: Daemon, seed: int) -> None:
    with client(daemon.url) as api:
        parsed = api.responses.parse(
            model=BUNDLED,
            input="Order something.",
            text_format=Order,
            max_output_tokens=NEVER_CUT_OFF,
            temperature=1.0,
            extra_body={"seed": seed},
        )
    assert isinstance(parsed.output_parsed, Order)


@pytest.mark.parametrize("stream", [False, True])
def test_the_bundled_model_calls_what_it_has_to(daemon: Daemon, stream: bool) -> None:
    ask: dict[str, Any] = {
        "model": BUNDLED,
        "input": QUESTION,
        "tools": [openai.pydantic_function_tool(Order)["function"] | {"type": "function"}],
        "tool_choice": {"type": "function", "name": "Order"},
        "max_output_tokens": NEVER_CUT_OFF,
        "temperature": 1.0,
        "extra_body": {"seed": 1},
    }
    with client(daemon.url) as api:
        if stream:
            with api.responses.stream(**ask) as events:
                response: Response = events.get_final_response()
        else:
            response = api.responses.create(**ask)
    assert Order.model_validate_json(call_in(response).arguments, strict=True)


def test_the_bundled_model_goes_on_where_it_was(daemon: Daemon) -> None:
    ask: dict[str, Any] = {
        "model": BUNDLED,
        "instructions": "You are a careful engineer. " * 40,
        "max_output_tokens": 40,
    }
    with client(daemon.url) as api:
        first = api.responses.create(input=QUESTION, **ask)
        second = api.responses.create(input="And in Oslo?", previous_response_id=first.id, **ask)
        whole: list[Any] = [
            {"role": "user", "content": QUESTION},
            *(item.to_dict() for item in first.output),
            {"role": "user", "content": "And in Paris?"},
        ]
        third = api.responses.create(input=whole, store=False, **ask)
    assert first.usage is not None
    for later in (second, third):
        assert later.usage is not None
        assert later.usage.input_tokens_details.cached_tokens >= 0.99 * first.usage.input_tokens
