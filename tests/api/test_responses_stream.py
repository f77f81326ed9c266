"""POST /v1/responses as a stream: which events come in which order, also when it takes long, is cut off, or breaks."""

import json
from itertools import pairwise
from typing import Any

import pytest

from engine.types import FinishReason, TokenOutput
from tests.support.api import Api, live, raw_exchange
from tests.support.event_streams import events_of
from tests.support.fake_clock import post, run
from tests.support.responses import CALL, PATH, WEATHER, answered, ask, streamed, written
from tests.support.scripted_engine import EOS, TOKENIZER, Wait, fail_after, play, say

PATCH = {"type": "custom", "name": "patch"}


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """Their kinds in order, neighbours of one kind once."""
    names = [event["type"].removeprefix("response.") for event in events]
    return [name for number, name in enumerate(names) if number == 0 or names[number - 1] != name]


def rebuilt(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items as a strict client puts them together: every event has to refer to what is open."""
    items: list[dict[str, Any]] = []
    for event in events:
        kind = event["type"].removeprefix("response.")
        if "output_index" not in event:
            continue
        if kind == "output_item.added":
            assert event["output_index"] == len(items)
            items.append(json.loads(json.dumps(event["item"])))
            continue
        assert event["output_index"] == len(items) - 1
        item = items[-1]
        if kind == "output_item.done":
            assert event["item"] == {**item, "status": event["item"]["status"]}
            items[-1] = event["item"]
            continue
        assert event["item_id"] == item["id"]
        if kind == "content_part.added":
            assert event["content_index"] == len(item["content"])
            item["content"].append(dict(event["part"]))
        elif kind == "content_part.done":
            assert item["content"][event["content_index"]] == event["part"]
        elif kind == "output_text.delta":
            item["content"][event["content_index"]]["text"] += event["delta"]
            item["content"][event["content_index"]]["logprobs"] += event["logprobs"]
        elif kind == "output_text.done":
            assert item["content"][event["content_index"]]["text"] == event["text"]
        elif kind == "function_call_arguments.delta":
            item["arguments"] += event["delta"]
        elif kind == "function_call_arguments.done":
            assert item["arguments"] == event["arguments"]
        elif kind == "custom_tool_call_input.delta":
            item["input"] += event["delta"]
        else:
            assert kind == "custom_tool_call_input.done"
            assert item["input"] == event["input"]
    return items


MESSAGE = [
    "output_item.added",
    "content_part.added",
    "output_text.delta",
    "output_text.done",
    "content_part.done",
    "output_item.done",
]
FUNCTION = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]
CUSTOM = ["output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.done", "output_item.done"]


def test_a_message() -> None:
    events = streamed(Api(say("Hello", cached=3)))
    assert kinds(events) == ["created", "in_progress", *MESSAGE, "completed"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    response = events[-1]["response"]
    assert response["status"] == "completed"
    assert response["usage"] == {
        "input_tokens": response["usage"]["input_tokens"],
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 6,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": response["usage"]["input_tokens"] + 6,
    }
    assert response["output"] == rebuilt(events)
    assert {event["response"]["id"] for event in events if "response" in event} == {response["id"]}
    assert events[0]["response"]["status"] == events[1]["response"]["status"] == "in_progress"


@pytest.mark.parametrize("per_step", [1, 2, 7, 1000])
def test_text_and_calls_of_both_kinds(per_step: int) -> None:
    api = Api(say(f"I look. {CALL}\n{written('patch', '+a b')} Done.", per_step=per_step))
    events = streamed(api, tools=[WEATHER, PATCH])
    assert kinds(events) == ["created", "in_progress", *MESSAGE, *FUNCTION, *CUSTOM, *MESSAGE, "completed"]
    items = rebuilt(events)
    assert [item["type"] for item in items] == ["message", "function_call", "custom_tool_call", "message"]
    assert json.loads(items[1]["arguments"]) == {"city": "Oslo", "days": 3}
    assert items[2]["input"] == "+a b"
    assert events[-1]["response"]["output"] == items
    assert {item["status"] for item in items} == {"completed"}
    assert len({item["id"] for item in items}) == 4


def test_whole_and_streamed_are_the_same() -> None:
    api = Api(say(f"I look. {CALL}"))
    of_stream = streamed(api, tools=[WEATHER])[-1]["response"]
    whole = answered(api, tools=[WEATHER])
    for response in (of_stream, whole):
        for name in ("id", "created_at", "completed_at"):
            response.pop(name)
        for item in response["output"]:
            item.pop("id")
            item.pop("call_id", None)
    assert whole == of_stream


def test_an_answer_of_nothing_is_a_message_of_nothing() -> None:
    events = streamed(Api(say("")))
    assert [item["content"][0]["text"] for item in rebuilt(events)] == [""]
    assert kinds(events) == ["created", "in_progress", *[k for k in MESSAGE if k != "output_text.delta"], "completed"]


def test_a_limit_makes_it_incomplete() -> None:
    events = streamed(Api(), max_output_tokens=3)
    assert kinds(events) == ["created", "in_progress", *MESSAGE, "incomplete"]
    response = events[-1]["response"]
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert response["max_output_tokens"] == 3
    assert response["completed_at"] is None
    assert rebuilt(events)[0]["status"] == "incomplete"
    assert answered(Api(), max_output_tokens=3)["output"][0]["content"][0]["text"] == "Hel"


@pytest.mark.parametrize(
    ("call", "cut", "member", "left"),
    [(CALL, "Osl", "arguments", '{"city": "Osl'), (written("patch", "one two three"), "two", "input", "one two")],
)
def test_a_call_that_is_cut_off_is_never_told_to_be_done(call: str, cut: str, member: str, left: str) -> None:
    """Codex carries out a call as soon as its item is done."""
    limit = len(TOKENIZER.encode(call[: call.index(cut) + len(cut)], parse_special=True))
    events = streamed(Api(say(call)), tools=[WEATHER, PATCH], max_output_tokens=limit)
    assert kinds(events)[-1] == "incomplete"
    assert not any(event["type"].endswith(".done") for event in events)
    [item] = events[-1]["response"]["output"]
    assert item["status"] == "incomplete"
    assert item[member] == left
    by_stop = streamed(Api(say(call)), tools=[WEATHER, PATCH], stop=cut)
    assert kinds(by_stop)[-1] == "incomplete"
    assert not any(event["type"].endswith(".done") for event in by_stop)
    assert by_stop[-1]["response"]["output"][0]["status"] == "incomplete"


def test_log_probabilities() -> None:
    plain = streamed(Api())
    assert all(event["logprobs"] == [] for event in plain if event["type"] == "response.output_text.delta")
    for more in ({"top_logprobs": 2}, {"top_logprobs": 2, "include": ["message.output_text.logprobs"]}):
        events = streamed(Api(), **more)
        [item] = rebuilt(events)
        logprobs = item["content"][0]["logprobs"]
        assert [token["token"] for token in logprobs] == list("Hello")
        assert all(len(token["top_logprobs"]) == 2 for token in logprobs)
    [item] = answered(Api(), include=["message.output_text.logprobs"])["output"]
    assert [token["top_logprobs"] for token in item["content"][0]["logprobs"]] == [[]] * 5


def test_a_failure_is_an_event_and_a_cut() -> None:
    with live(Api(fail_after("Hel"))) as url:
        received = raw_exchange(url, {"input": "Hi", "stream": True}, PATH)
    assert not received.endswith(b"0\r\n\r\n")
    last = json.loads(received.split(b"data: ")[-1].splitlines()[0])
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"] == {"code": "server_error", "message": "the device failed"}


def test_a_failure_of_a_whole_answer_is_an_error() -> None:
    response = ask(Api(fail_after("Hel")))
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"


LONG, PATIENCE, INTERVAL = 400.0, 300.0, 10.0


def test_a_failure_before_the_first_token_comes_after_created() -> None:
    body = json.dumps({"input": "Hi", "stream": True}).encode()
    sent = run(post(Api(play(Wait(LONG), RuntimeError("the device failed"))).app, PATH, body))
    events = events_of(b"".join(message.get("body", b"") for _, message in sent).decode())
    assert kinds(events) == ["created", "in_progress", "failed"]


@pytest.mark.parametrize("answer", ["Hello", CALL])
def test_a_watchdog_that_counts_events_stays_calm(answer: str) -> None:
    """As Codex's: 300 seconds between two events, and comments are none."""
    body = json.dumps({"input": "Hi", "stream": True, "tools": [WEATHER]}).encode()
    sent = run(post(Api(say(answer, before=LONG)).app, PATH, body))
    told = [(moment, events_of(message["body"].decode())) for moment, message in sent if message.get("body")]
    moments = [0.0, *(moment for moment, events in told if events)]
    assert moments[-1] >= LONG
    assert max(after - before for before, after in pairwise(moments)) <= INTERVAL < PATIENCE
    events = [event for _, events in told for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert kinds(events)[:2] == ["created", "in_progress"]
    assert kinds(events)[-1] == "completed"
    signs = [event for event in events if event["type"] == "response.in_progress"][1:]
    assert len(signs) == LONG / INTERVAL
    assert all(sign["prompt_progress"].keys() == {"total", "cache", "processed", "time_ms"} for sign in signs)
    assert rebuilt(events) == events[-1]["response"]["output"]


def test_signs_of_life_amid_an_answer_change_nothing() -> None:
    first, *rest = (TokenOutput((token,)) for token in TOKENIZER.encode("Hello", parse_special=True))
    api = Api(play(first, Wait(25.0), *rest, TokenOutput((EOS,), finish_reason=FinishReason.STOP)))
    sent = run(post(api.app, PATH, json.dumps({"input": "Hi", "stream": True}).encode()))
    events = events_of(b"".join(message.get("body", b"") for _, message in sent).decode())
    assert rebuilt(events) == events[-1]["response"]["output"]
    assert rebuilt(events)[0]["content"][0]["text"] == "Hello"
    assert sum(event["type"] == "response.in_progress" for event in events) == 3
