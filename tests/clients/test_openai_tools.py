"""The official openai client, held forms of answers and the bundled model: what the client makes of them.

The model is far too small to fill in an order by itself, so whatever is right here was held to be right.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai.lib.streaming.chat import (
    ContentDeltaEvent,
    ContentDoneEvent,
    FunctionToolCallArgumentsDeltaEvent,
    FunctionToolCallArgumentsDoneEvent,
)
from openai.types.chat import ParsedChatCompletion
from pydantic import BaseModel

from tests.support.daemon import Daemon
from tests.support.orders import NEVER_CUT_OFF, QUESTION, Order, Weather, named

MODEL = "qwen3-coder-nano"
SEEDS = (1, 2, 3)


ORDER: Any = openai.pydantic_function_tool(Order)
WEATHER: Any = openai.pydantic_function_tool(Weather, name="get_weather")
MODELS: dict[str, type[BaseModel]] = {"Order": Order, "get_weather": Weather}


@pytest.fixture
def api(daemon: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="x", max_retries=0, timeout=60) as client:
        yield client


def asked(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [QUESTION], "temperature": 1.0, "max_tokens": NEVER_CUT_OFF, **more}


def checked_calls(completion: ParsedChatCompletion[Any]) -> list[tuple[str, str]]:
    """Names and arguments of the answer's calls, after a look at whether they are what the client's models say."""
    [choice] = completion.choices
    assert choice.finish_reason == "tool_calls"
    assert not choice.message.content
    assert choice.message.tool_calls
    for call in choice.message.tool_calls:
        model = MODELS[call.function.name]
        assert call.id
        assert type(call.function.parsed_arguments) is model
        assert call.function.parsed_arguments == model.model_validate_json(call.function.arguments, strict=True)
    return [(call.function.name, call.function.arguments) for call in choice.message.tool_calls]


# --- calls ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("choice", ["required", named("Order")], ids=["required", "named"])
def test_a_call_is_parsed_the_same_whole_and_streamed(api: openai.OpenAI, choice: Any, seed: int) -> None:
    fields = asked(tools=[ORDER], tool_choice=choice, seed=seed, parallel_tool_calls=False)
    with api.chat.completions.stream(**fields) as stream:
        events = list(stream)
        streamed = stream.get_final_completion()
    deltas = [event for event in events if isinstance(event, FunctionToolCallArgumentsDeltaEvent)]
    [done] = [event for event in events if isinstance(event, FunctionToolCallArgumentsDoneEvent)]
    assert len(deltas) > len(Order.model_fields)
    assert "".join(event.arguments_delta for event in deltas) == deltas[-1].arguments == done.arguments
    assert (done.name, done.index) == ("Order", 0)
    assert done.parsed_arguments == Order.model_validate_json(done.arguments)
    assert not any(event.delta for event in events if isinstance(event, ContentDeltaEvent))
    assert checked_calls(streamed) == [("Order", done.arguments)]
    assert checked_calls(api.chat.completions.parse(**fields)) == [("Order", done.arguments)]


def test_a_required_call_streams_as_its_parts_arrive(api: openai.OpenAI) -> None:
    fields = asked(tools=[ORDER, WEATHER], tool_choice=named("get_weather"), seed=1, parallel_tool_calls=False)
    chunks = list(api.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    parts = [call for delta in deltas for call in delta.tool_calls or []]
    assert [part.index for part in parts] == [0] * len(parts)
    assert parts[0].id
    assert parts[0].function
    assert parts[0].function.name == "get_weather"
    assert not any(part.id or (part.function and part.function.name) for part in parts[1:])
    arguments = "".join(part.function.arguments or "" for part in parts if part.function)
    assert Weather.model_validate_json(arguments).city
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "tool_calls"
    assert not any(delta.content for delta in deltas)
    whole = api.chat.completions.create(**fields)
    assert whole.choices[0].finish_reason == "tool_calls"
    [call] = whole.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.arguments == arguments
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


@pytest.mark.parametrize("name", MODELS)
def test_the_named_function_is_called_whatever_was_asked(api: openai.OpenAI, name: str) -> None:
    fields = asked(tools=[ORDER, WEATHER], tool_choice=named(name), parallel_tool_calls=False, max_tokens=200)
    fields["messages"] = [{"role": "user", "content": "Hello"}]
    [(called, _)] = checked_calls(api.chat.completions.parse(**fields, seed=1))
    assert called == name


@pytest.mark.parametrize("seed", SEEDS)
def test_a_strict_tool_that_the_model_calls_by_itself_is_held_to_its_schema(api: openai.OpenAI, seed: int) -> None:
    """Nothing requires a call here; one tool among the text is all there is to say, and the model takes to it."""
    completion = api.chat.completions.parse(**asked(tools=[ORDER], seed=seed, temperature=0.7))
    assert {name for name, _ in checked_calls(completion)} == {"Order"}


def test_a_call_that_was_cut_off_is_an_error_to_the_client(api: openai.OpenAI) -> None:
    fields = asked(tools=[ORDER], tool_choice="required", seed=1, max_tokens=20)
    with pytest.raises(openai.LengthFinishReasonError):
        api.chat.completions.parse(**fields)
    with pytest.raises(openai.LengthFinishReasonError), api.chat.completions.stream(**fields) as stream:
        stream.until_done()


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
def test_a_round_trip_from_call_to_result_to_answer(api: openai.OpenAI, streams: bool) -> None:
    def answer(messages: list[Any], **more: Any) -> ParsedChatCompletion[Any]:
        fields = asked(messages=messages, tools=[WEATHER], temperature=0, **more)
        if not streams:
            return api.chat.completions.parse(**fields)
        with api.chat.completions.stream(**fields, stream_options={"include_usage": True}) as stream:
            return stream.get_final_completion()

    first = answer([QUESTION], tool_choice="required")
    assert checked_calls(first) == [("get_weather", '{"city": "Rome"}')]
    message = first.choices[0].message
    [call] = message.tool_calls or []
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 21}'}
    history: Any = message.model_dump(include={"role", "content", "tool_calls"})
    second = answer([QUESTION, history, result])
    assert second.choices[0].finish_reason == "stop"
    assert "21" in (second.choices[0].message.content or "")
    assert first.usage
    assert second.usage
    assert second.usage.prompt_tokens_details
    cached = second.usage.prompt_tokens_details.cached_tokens or 0
    assert cached >= first.usage.total_tokens - 1


def test_calls_made_at_once_are_those_made_alone(daemon: Daemon) -> None:
    requests = [
        asked(tools=[ORDER, WEATHER], tool_choice=choice, seed=seed, parallel_tool_calls=False)
        for seed in SEEDS
        for choice in (named("get_weather"), named("Order"))
    ]

    async def calls(client: openai.AsyncOpenAI, fields: dict[str, Any]) -> list[tuple[str, str]]:
        return checked_calls(await client.chat.completions.parse(**fields))

    async def everything() -> None:
        async with openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="x", max_retries=0) as client:
            together = await asyncio.gather(*(calls(client, fields) for fields in requests))
            assert together == [await calls(client, fields) for fields in requests]

    asyncio.run(everything())


# --- text -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_an_answer_in_the_form_of_a_model_is_parsed_the_same_whole_and_streamed(api: openai.OpenAI, seed: int) -> None:
    fields = asked(response_format=Order, seed=seed)
    whole = api.chat.completions.parse(**fields).choices[0]
    assert whole.finish_reason == "stop"
    assert whole.message.parsed == Order.model_validate_json(whole.message.content or "", strict=True)
    with api.chat.completions.stream(**fields) as stream:
        events = list(stream)
        final = stream.get_final_completion().choices[0]
    deltas = [event for event in events if isinstance(event, ContentDeltaEvent)]
    [done] = [event for event in events if isinstance(event, ContentDoneEvent)]
    assert len(deltas) > len(Order.model_fields)
    assert "".join(event.delta for event in deltas) == done.content == whole.message.content
    assert done.parsed == final.message.parsed == whole.message.parsed
    assert final.finish_reason == "stop"


def test_a_json_object(api: openai.OpenAI) -> None:
    text = 'Repeat this: {"name": "Rome", "days": 3}'
    fields = asked(messages=[{"role": "user", "content": text}], response_format={"type": "json_object"})
    answer = api.chat.completions.create(**{**fields, "temperature": 0}).choices[0]
    assert answer.finish_reason == "stop"
    assert json.loads(answer.message.content or "") == {"name": "Rome", "days": 3}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_json_object_begins_as_one_where_the_model_would_rather_talk(api: openai.OpenAI, seed: int) -> None:
    fields = asked(messages=[{"role": "user", "content": "Hello"}], seed=seed, max_tokens=30)
    talk = api.chat.completions.create(**fields).choices[0].message.content or ""
    held = api.chat.completions.create(**fields, response_format={"type": "json_object"}).choices[0].message.content
    assert not talk.startswith("{")
    assert (held or "").startswith("{")


@pytest.mark.parametrize(
    ("form", "fits"),
    [
        ({"choice": ["Milan", "the Moon"]}, re.compile("Milan|the Moon").fullmatch),
        ({"regex": "[A-Z]{3}-[0-9]{4}"}, re.compile("[A-Z]{3}-[0-9]{4}").fullmatch),
    ],
    ids=["choice", "regex"],
)
def test_other_forms_go_in_the_extra_body(
    api: openai.OpenAI, form: dict[str, Any], fits: Callable[[str], object]
) -> None:
    for seed in SEEDS:
        answer = api.chat.completions.create(**asked(seed=seed), extra_body={"structured_outputs": form})
        assert answer.choices[0].finish_reason == "stop"
        assert fits(answer.choices[0].message.content or "")


def test_a_form_that_is_none_is_refused_by_its_name(api: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        api.chat.completions.create(**asked(), extra_body={"structured_outputs": {"regex": "("}})
    assert (caught.value.code, caught.value.param) == ("invalid_schema", "structured_outputs.regex")
    with pytest.raises(openai.BadRequestError) as caught:
        api.chat.completions.create(**asked(tools=[ORDER], tool_choice=named("other")))
    assert caught.value.param == "tool_choice"
