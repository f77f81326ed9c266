"""Clients that read strictly: every chunk must fit the types that their own source declares."""

from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict

from tests.support.api import CHAT, WEATHER, Api, chunks_of, hello
from tests.support.scripted_engine import say

CALL = "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>"


class Strict(BaseModel):
    """As serde reads it: no text for a number; unknown members pass."""

    model_config = ConfigDict(strict=True)


class Function(Strict):
    name: str | None = None
    arguments: str | None = None


class Call(Strict):
    index: int
    id: str | None = None
    function: Function | None = None


class Delta(Strict):
    role: Literal["user", "assistant", "system", "tool"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Call] | None = None


class Choice(Strict):
    index: int
    delta: Delta | None
    finish_reason: str | None = None


class Usage(Strict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Event(Strict):
    choices: list[Choice]
    usage: Usage | None = None


@pytest.mark.parametrize("answer", ["Hello", CALL, f"I look. {CALL}"])
def test_an_editor_that_decodes_strictly(answer: str) -> None:
    body = hello(stream=True, stream_options={"include_usage": True}, tools=[WEATHER], prompt_cache_key="k")
    events = [Event.model_validate(chunk) for chunk in chunks_of(Api(say(answer)).post(CHAT, body).text)]
    assert events[-1].usage is not None
    assert events[-1].choices == []
    finished = [choice.finish_reason for event in events for choice in event.choices if choice.finish_reason]
    assert finished == ["tool_calls" if "<" in answer else "stop"]
