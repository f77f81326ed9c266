"""One choice's events, whatever portions its tokens come in."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.types import CacheReport, FinishReason, MissReason, TokenLogprobs, TokenOutput
from server.chat.call_formats import CallFormat
from server.chat.conversation import Tool
from server.chat.events import (
    ChoiceFinished,
    GenerationEvent,
    GenerationFailed,
    TextDelta,
    ToolCallArguments,
    ToolCallStarted,
)
from server.choice import ChoiceWriter, OutputOptions
from tests.support.api import WEATHER
from tests.support.scripted_engine import EOS, TOKENIZER

TOOLS = (Tool("weather", WEATHER["function"]),)
CALL = "<tool_call>\n<function=weather>\n<parameter=city>\nÅlesund\n</parameter>\n</function>\n</tool_call>"
TEXTS = ("plain", "wörld 🙂 end", "a stop in here", f"Let me see\n{CALL}", f"{CALL}\n{CALL}", "stostostop", "")
OPTIONS = (
    OutputOptions(),
    OutputOptions(stops=("stop",)),
    OutputOptions(stops=("stop", "🙂"), include_stop=True),
    OutputOptions(tools=TOOLS),
    OutputOptions(tools=TOOLS, stops=("sund",), max_tool_calls=1),
    OutputOptions(tools=TOOLS, max_tool_calls=1),
)


def run(
    ids: Sequence[int], cuts: Sequence[int], options: OutputOptions, reason: FinishReason = FinishReason.STOP
) -> list[GenerationEvent]:
    writer = ChoiceWriter(0, 7, TOKENIZER, options)
    events: list[GenerationEvent] = []
    edges = sorted({0, len(ids), *(cut for cut in cuts if cut < len(ids))})
    for start, end in itertools.pairwise(edges):
        portion = tuple(ids[start:end])
        logprobs = tuple(TokenLogprobs(token_id, -1.0) for token_id in portion)
        events += writer.feed(TokenOutput(portion, logprobs, finish_reason=reason if end == len(ids) else None))
        if writer.finished:
            break
    assert writer.finished
    return events


@pytest.mark.parametrize("reason", [FinishReason.STOP, FinishReason.LENGTH])
@pytest.mark.parametrize("cut", [1, 2, 99])
@pytest.mark.parametrize("text", ["", "ab", "aé"])
def test_where_the_end_is_told_every_token_has_its_logprobs(text: str, cut: int, reason: FinishReason) -> None:
    b = TOKENIZER.encode("b", parse_special=False)
    ids = [*TOKENIZER.encode(text, parse_special=False), *([EOS] if reason is FinishReason.STOP else b)]
    events = run(ids, [cut], OutputOptions(tells_end=True, skip_special_tokens=False), reason)
    texts = [event for event in events if isinstance(event, TextDelta)]
    told = [token.raw for event in texts for token in event.logprobs]
    assert told == [TOKENIZER.token_bytes(i) for i in ids]
    assert "".join(event.text for event in texts) == text + ("" if reason is FinishReason.STOP else "b")
    assert sum(event.token_ids.count(EOS) for event in texts) <= 1


def test_the_tokens_of_a_prompt_are_kept_as_they_are_scored() -> None:
    writer = ChoiceWriter(0, 4, TOKENIZER, OutputOptions())
    ids = TOKENIZER.encode("abc", parse_special=False)
    for token_ids in (ids[:2], ids[2:]):
        scores = tuple(TokenLogprobs(i, -float(i), ((ids[1], -0.5),)) for i in token_ids)
        assert writer.feed(TokenOutput((), prompt_logprobs=scores)) == []
    told = [(token.text, token.logprob, token.top) for token in writer.scored_prompt]
    assert told == [(text, -float(i), (("b", b"b", -0.5),)) for text, i in zip("abc", ids, strict=True)]
    [end] = writer.feed(TokenOutput((), finish_reason=FinishReason.LENGTH))
    assert isinstance(end, ChoiceFinished)
    assert writer.num_generated_tokens == 0


def summary(events: list[GenerationEvent]) -> dict[str, Any]:
    """What does not depend on the portions."""
    texts = [event for event in events if isinstance(event, TextDelta)]
    arguments: dict[int, str] = {}
    for event in events:
        if isinstance(event, ToolCallArguments):
            arguments[event.index] = arguments.get(event.index, "") + event.fragment
    return {
        "text": "".join(event.text for event in texts),
        "tokens": [token.raw for event in texts for token in event.logprobs],
        "calls": [(event.index, event.name) for event in events if isinstance(event, ToolCallStarted)],
        "arguments": arguments,
        "end": [event for event in events if isinstance(event, ChoiceFinished)],
    }


@given(
    text=st.sampled_from(TEXTS),
    options=st.sampled_from(OPTIONS),
    cuts=st.lists(st.integers(1, 200), max_size=8),
    reason=st.sampled_from([FinishReason.STOP, FinishReason.LENGTH, FinishReason.REPETITION]),
)
def test_the_answer_does_not_depend_on_how_tokens_are_portioned(
    text: str, options: OutputOptions, cuts: list[int], reason: FinishReason
) -> None:
    ids = [*TOKENIZER.encode(text, parse_special=True), EOS]
    one_by_one = run(ids, range(len(ids)), options, reason)
    assert summary(run(ids, cuts, options, reason)) == summary(one_by_one)


@given(text=st.text(alphabet="abös🙂 tp", max_size=30), cuts=st.lists(st.integers(1, 40), max_size=8))
def test_the_shown_tokens_spell_the_text(text: str, cuts: list[int]) -> None:
    events = run([*TOKENIZER.encode(text, parse_special=False), EOS], cuts, OutputOptions())
    assert b"".join(summary(events)["tokens"]).decode() == summary(events)["text"] == text


@pytest.mark.parametrize(
    ("text", "options", "shown"),
    [
        (f"Hi\n{CALL}", OutputOptions(tools=TOOLS), "Hi"),
        (f"Hi\n{CALL}\nDone", OutputOptions(tools=TOOLS), "Hi\nDone"),
        (f"Hi\n{CALL}\nDone", OutputOptions(tools=TOOLS, stops=("zzz",)), "Hi\nDone"),
        ("a<|fim_prefix|>b", OutputOptions(), "ab"),
        ("a<|fim_prefix|>b", OutputOptions(skip_special_tokens=False), "a<|fim_prefix|>b"),
        ("a", OutputOptions(skip_special_tokens=False, include_stop=True), "a<|im_end|>"),
        ("a", OutputOptions(stop_tokens={EOS: "<|im_end|>"}, include_stop=True), "a<|im_end|>"),
    ],
)
def test_only_tokens_of_the_text_are_shown(text: str, options: OutputOptions, shown: str) -> None:
    found = summary(run([*TOKENIZER.encode(text, parse_special=True), EOS], range(200), options))
    assert b"".join(found["tokens"]).decode() == found["text"] == shown


def test_usage_counts_through_the_token_that_completed_the_stop() -> None:
    ids = TOKENIZER.encode("one stop two", parse_special=True)
    [finished] = summary(run([*ids, EOS], [100], OutputOptions(stops=("stop",))))["end"]
    assert finished.num_generated_tokens == len("one stop")
    assert finished.stop == "stop"


def test_nothing_is_held_back_for_ever() -> None:
    ids = TOKENIZER.encode("a sto", parse_special=True)
    assert summary(run([*ids, EOS], [], OutputOptions(stops=("stop",))))["text"] == "a sto"
    half = TOKENIZER.encode("é", parse_special=False)[:1]
    assert summary(run([*half, EOS], [], OutputOptions()))["text"] == "\ufffd"


@pytest.mark.parametrize(
    ("reason", "finished_as"),
    [
        (FinishReason.LENGTH, "length"),
        (FinishReason.REPETITION, "repetition"),
        (FinishReason.ABORT, "abort"),
        (FinishReason.STOP, "tool_calls"),
    ],
)
def test_how_an_open_call_ends(reason: FinishReason, finished_as: str) -> None:
    ids = [*TOKENIZER.encode(CALL[:60], parse_special=True), EOS]
    assert summary(run(ids, [], OutputOptions(tools=TOOLS), reason))["end"][0].finished_as == finished_as


@pytest.mark.parametrize("length", [60, len(CALL) - len("</parameter>\n</function>\n</tool_call>")])
def test_a_call_that_a_repetition_cuts_off_is_not_complete(length: int) -> None:
    ids = TOKENIZER.encode(CALL[:length], parse_special=True)
    found = summary(run(ids, [], OutputOptions(tools=TOOLS), FinishReason.REPETITION))
    assert found["end"][0].finished_as == "repetition"
    assert found["end"][0].num_generated_tokens == len(ids)
    assert not found["arguments"].get(0, "").endswith("}")


def test_the_last_allowed_call_counts_even_when_the_next_one_has_begun() -> None:
    # the stop string's beginning holds back the end of the first call until the second one is there
    options = OutputOptions(tools=TOOLS, max_tool_calls=1, stops=(">\n<tool_call>!",))
    found = summary(run([*TOKENIZER.encode(f"{CALL}\n{CALL}", parse_special=True), EOS], [], options))
    assert found["calls"] == [(0, "weather")]
    assert found["arguments"] == {0: '{"city": "Ålesund"}'}
    assert found["end"][0].finished_as == "tool_calls"


def test_a_failure_is_its_own_event() -> None:
    writer = ChoiceWriter(2, 7, TOKENIZER, OutputOptions())
    events = writer.feed(TokenOutput((), finish_reason=FinishReason.ERROR, error="out of memory"))
    assert events == [GenerationFailed(2, "out of memory")]


def test_special_tokens_on_request() -> None:
    ids = [*TOKENIZER.encode("a<|fim_prefix|>b", parse_special=True), EOS]
    assert summary(run(ids, [], OutputOptions()))["text"] == "ab"
    assert summary(run(ids, [], OutputOptions(skip_special_tokens=False)))["text"] == "a<|fim_prefix|>b"


def test_the_end_token_on_request() -> None:
    options = OutputOptions(skip_special_tokens=False, include_stop=True)
    assert summary(run([*TOKENIZER.encode("a", parse_special=True), EOS], [], options))["text"] == "a<|im_end|>"


def test_cached_tokens_are_told_at_the_end() -> None:
    writer = ChoiceWriter(0, 7, TOKENIZER, OutputOptions())
    [event] = writer.feed(
        TokenOutput((EOS,), finish_reason=FinishReason.STOP, cache=CacheReport(5, 6, MissReason.DIFFERS))
    )
    assert event == ChoiceFinished(0, "stop", 7, 1, 5, None)


@pytest.mark.parametrize("after", ["", "\n", "\nDone"])
@pytest.mark.parametrize("finish", [FinishReason.STOP, FinishReason.LENGTH])
def test_tokens_between_text_and_calls_are_told_apart_in_any_portions(after: str, finish: FinishReason) -> None:
    text = f"Hi <tool_call> there\n{CALL}{CALL}{after}"
    ids = [*TOKENIZER.encode(text, parse_special=True), EOS]
    for size in range(1, 40):
        found = summary(run(ids, range(size, len(ids), size), OutputOptions(tools=TOOLS), finish))
        assert b"".join(found["tokens"]).decode() == found["text"]
        assert found["text"].strip() == f"Hi <tool_call> there{after}".strip()


def test_the_form_of_calls_is_the_models() -> None:
    text = 'Hi\n<tool_call>\n{"name": "weather", "arguments": {"city": "Ålesund"}}\n</tool_call>'
    ids = [*TOKENIZER.encode(text, parse_special=True), EOS]
    found = summary(run(ids, range(len(ids)), OutputOptions(tools=TOOLS, call_format=CallFormat.HERMES)))
    assert found["text"] == b"".join(found["tokens"]).decode() == "Hi"
    assert found["calls"] == [(0, "weather")]
    assert found["arguments"] == {0: '{"city": "Ålesund"}'}
    assert found["end"][0].finished_as == "tool_calls"
    assert summary(run(ids, [], OutputOptions(tools=TOOLS)))["text"] == text


@pytest.mark.parametrize(("kept", "reason"), [(50, "length"), (70, "length"), (90, "tool_calls")])
def test_a_json_call_that_is_cut_off_is_not_finished_as_one(kept: int, reason: str) -> None:
    text = '<tool_call>\n{"name": "weather", "arguments": {"city": "Å", "country": "Norway"}}\n</tool_call>'
    ids = TOKENIZER.encode(text, parse_special=True)[:kept]
    options = OutputOptions(tools=TOOLS, call_format=CallFormat.HERMES)
    assert summary(run(ids, [], options, FinishReason.LENGTH))["end"][0].finished_as == reason
