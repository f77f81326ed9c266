"""Calls put together from their fragments: whole ones as objects, broken ones as text, halves not at all."""

from typing import Any

import pytest

from server.chat.events import ChoiceFinished, FinishedAs, ToolCallArguments, ToolCallStarted
from server.dialects.ollama.calls import CallCollector
from server.json_text import to_json


def collected(finished_as: FinishedAs, *texts: str) -> list[Any]:
    """The arguments of calls that came character by character."""
    collector = CallCollector()
    for index, text in enumerate(texts):
        collector.feed(ToolCallStarted(0, index, f"call_{index}", "f"))
        for character in text:
            collector.feed(ToolCallArguments(0, index, character))
    calls = collector.whole(ChoiceFinished(0, finished_as, 1, 1, 0))
    to_json(calls)
    return [call["function"]["arguments"] for call in calls]


def test_whole_calls_are_objects() -> None:
    texts = ['{"city": "Rome", "days": [1, 2.5, null]}', "{}", '{"half": "\\ud800"}']
    expected = [{"city": "Rome", "days": [1, 2.5, None]}, {}, {"half": "\ud800"}]
    assert collected("tool_calls", *texts) == expected


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "3", '{"a": NaN}', '{"a": 1e999}', "[" * 100_000, '{"a": ' + "9" * 5000]
)
def test_what_is_no_object_is_text(text: str) -> None:
    assert collected("tool_calls", "{}", text) == [{}, {"arguments": text}]


@pytest.mark.parametrize("finished_as", ["length", "stop", "repetition"])
def test_half_a_call_is_left_out(finished_as: FinishedAs) -> None:
    assert collected(finished_as, '{"a": 1}', '{"a": ') == [{"a": 1}]
    assert collected(finished_as, '{"a": NaN}', "{}") == [{"arguments": '{"a": NaN}'}, {}]
    assert collected(finished_as, "") == []
