"""langchain's OpenAI package against a real socket: answers, streams, tools, structured output, completions, errors."""

from collections.abc import Iterator

import openai
import pytest
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, SecretStr

from tests.support.api import Api, live
from tests.support.scripted_engine import say

MODEL = "tiny-qwen-coder"
CALL = "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>"


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


class Answer(BaseModel):
    """An answer with a reason."""

    value: int
    reason: str


@pytest.fixture
def url() -> Iterator[str]:
    with live(Api(say("Hello wörld"))) as url:
        yield url


def chat(url: str, **more: object) -> ChatOpenAI:
    return ChatOpenAI(model=MODEL, base_url=f"{url}/v1", api_key=SecretStr("x"), max_retries=0, **more)  # type: ignore[arg-type]


def test_an_answer(url: str) -> None:
    answer = chat(url).invoke([SystemMessage("Be kind."), HumanMessage("Hi")])
    assert answer.content == "Hello wörld"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 13


def test_a_stream(url: str) -> None:
    chunks = list(chat(url, stream_usage=True).stream("Hi"))
    assert "".join(str(chunk.content) for chunk in chunks) == "Hello wörld"
    assert any(chunk.usage_metadata for chunk in chunks)


def test_a_tool_loop() -> None:
    with live(Api(say(f"I look. {CALL}"))) as url:
        model = chat(url).bind_tools([weather], tool_choice="weather", parallel_tool_calls=False)
        asked = HumanMessage("Rain in Rome?")
        answer = model.invoke([asked])
        [call] = answer.tool_calls
        assert (call["name"], call["args"]) == ("weather", {"city": "Rome"})
        result = weather.invoke(call)
        assert isinstance(result, ToolMessage)
        assert model.invoke([asked, answer, result]).content == "I look."


@pytest.mark.parametrize("previous", [False, True])
def test_responses(previous: bool) -> None:
    """OpenAI's other API: with the whole conversation each time, and with what the server keeps of it."""
    with live(Api(say(f"I look. {CALL}"))) as url:
        model = chat(url, use_responses_api=True, use_previous_response_id=previous)
        bound = model.bind_tools([weather])
        asked = HumanMessage("Rain in Rome?")
        answer = bound.invoke([SystemMessage("Be kind."), asked])
        [call] = answer.tool_calls
        assert (answer.text, call["name"], call["args"]) == ("I look.", "weather", {"city": "Rome"})
        chunks = list(bound.stream([asked, answer, weather.invoke(call)]))
        assert "".join(chunk.text for chunk in chunks) == "I look."
        assert any(chunk.usage_metadata for chunk in chunks)


def test_a_structured_answer() -> None:
    with live(Api(say('{"value": 7, "reason": "so"}'))) as url:
        asked = chat(url).with_structured_output(Answer, method="json_schema")
        assert asked.invoke("Why?") == Answer(value=7, reason="so")


def test_a_completion(url: str) -> None:
    model = OpenAI(model=MODEL, base_url=f"{url}/v1", api_key=SecretStr("x"), max_retries=0)
    assert model.invoke("def f") == "Hello wörld"


def test_an_overflow_is_told_as_such(url: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(url).invoke("x" * 5000)
    assert caught.value.code == "context_length_exceeded"
