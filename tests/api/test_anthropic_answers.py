"""What an answer looks like on the wire: the order of events for every cut, ends, failures, and long silences."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import anthropic
import pytest
from anthropic.types import RawMessageStreamEvent
from pydantic import TypeAdapter

from server.sse import COMMENT
from tests.support.api import Api, live, raw_exchange
from tests.support.event_streams import events_of
from tests.support.fake_clock import post, run
from tests.support.scripted_engine import INFO, ScriptedEngine, Wait, fail_after, play, say

PATH = "/v1/messages"
EVENT: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)
TOOL: Any = {"name": "weather", "input_schema": {"type": "object", "properties": {"days": {"type": "integer"}}}}
CALL = "<tool_call>\n<function=weather>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"


def body(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 500, "tools": [TOOL], **more}


def shape(events: list[dict[str, Any]]) -> list[str]:
    """The kinds of the events, several deltas of one block told once."""
    kinds = [event["type"] for event in events]
    return [kind for number, kind in enumerate(kinds) if kind != "content_block_delta" or kinds[number - 1] != kind]


BLOCK = ["content_block_start", "content_block_delta", "content_block_stop"]
FIRST_BLOCK = ["content_block_start", "ping", "content_block_delta", "content_block_stop"]
END = ["message_delta", "message_stop"]
ORDERS = {
    "Hello": ["message_start", *FIRST_BLOCK, *END],
    CALL: ["message_start", *FIRST_BLOCK, *END],
    f"I look. {CALL}": ["message_start", *FIRST_BLOCK, *BLOCK, *END],
    f"{CALL} Done.": ["message_start", *FIRST_BLOCK, *BLOCK, *END],
    f"{CALL}\n{CALL}": ["message_start", *FIRST_BLOCK, *BLOCK, *END],
    "": ["message_start", *END],
}


@pytest.mark.parametrize("per_step", [*range(1, 8), 1000])
@pytest.mark.parametrize("answer", ORDERS, ids=range(len(ORDERS)))
def test_the_order_of_events_is_the_same_for_every_cut(answer: str, per_step: int) -> None:
    api = Api(say(answer, per_step=per_step))
    text = api.post(PATH, body(stream=True)).text
    events = events_of(text)
    assert shape(events) == ORDERS[answer]
    assert "[DONE]" not in text
    for event in events:
        if event["type"] != "ping":
            assert EVENT.validate_python(event).type == event["type"]
    whole = api.post(PATH, body()).json()
    assert events[-2]["delta"] == {name: whole[name] for name in ("stop_reason", "stop_sequence")}
    assert events[-2]["usage"] == whole["usage"]
    assert anthropic.types.Message.model_validate(whole).usage.output_tokens > 0


def test_a_message_begins_with_what_is_known() -> None:
    start = events_of(Api(say("Hello")).post(PATH, body(stream=True)).text)[0]["message"]
    assert start.pop("usage")["input_tokens"] > 0
    assert start.pop("id").startswith("msg_")
    assert start == {
        "type": "message",
        "role": "assistant",
        "model": "tiny-qwen-coder",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def test_an_answer_that_fills_the_context_says_so() -> None:
    engine = ScriptedEngine(say("x" * 500), info=replace(INFO, max_model_len=100))
    answer = Api(engine=engine).post(PATH, body(tools=[])).json()
    assert answer["stop_reason"] == "model_context_window_exceeded"
    assert Api(say("x" * 500)).post(PATH, body(max_tokens=10)).json()["stop_reason"] == "max_tokens"


def test_a_stop_sequence_after_a_call_leaves_a_call() -> None:
    answer = Api(say(f"{CALL} Done. STOP here")).post(PATH, body(stop_sequences=["STOP"])).json()
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("tool_use", None)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_can_be_read_for_later(stream: bool) -> None:
    api = Api(say("Hello"))
    response = api.post(PATH, body(max_tokens=0, stream=stream))
    assert api.asked.sampling.max_tokens == 0
    if stream:
        assert shape(events_of(response.text)) == ["message_start", *END]
    else:
        answer = response.json()
        assert (answer["content"], answer["stop_reason"], answer["usage"]["output_tokens"]) == ([], "max_tokens", 0)


def test_a_failure_in_a_stream_is_its_last_event_and_cuts_the_connection() -> None:
    with live(Api(fail_after("Hel"))) as url:
        received = raw_exchange(url, body(stream=True), PATH).decode()
    assert not received.endswith("0\r\n\r\n")
    last = received.rpartition("event: error\ndata: ")[2].split("\n")[0]
    error = json.loads(last)
    assert error["error"] == {"type": "api_error", "message": "the device failed"}
    assert f"\nrequest-id: {error['request_id']}\r\n" in received.lower()


def test_a_failure_says_which_request_it_was() -> None:
    for response in (
        Api().post(PATH, body(max_tokens=-1)),
        Api().post("/v1/messages/nothing", {}),
        Api(keys=("key",)).post(PATH, body()),
        Api(fail_after("Hel")).post(PATH, body()),
    ):
        assert response.status_code >= 400
        assert response.json()["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]


def test_silence_inside_a_call_is_bridged_in_its_own_block() -> None:
    events = say(CALL, per_step=40)
    api = Api(lambda request: [step for output in events(request) for step in (output, Wait(35.0))])
    sent = run(post(api.app, PATH, json.dumps(body(stream=True)).encode()))
    told = events_of("".join(message.get("body", b"").decode() for _, message in sent))
    deltas = [event["delta"] for event in told if event["type"] == "content_block_delta"]
    assert sum(event["type"] == "ping" for event in told) > 2
    assert {delta["type"] for delta in deltas} == {"input_json_delta"}
    assert json.loads("".join(delta["partial_json"] for delta in deltas)) == {"days": 3}


def test_nothing_follows_the_end_of_a_message() -> None:
    """Where a client reads so slowly that a life sign comes due while the end is on its way."""
    api = Api(say("Hello"))

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        async def send_slowly(message: Any) -> None:
            await send(message)
            if b"message_stop" in message.get("body", b""):
                await asyncio.sleep(100.0)

        await api.app(scope, receive, send_slowly)

    sent = run(post(slow, PATH, json.dumps(body(stream=True)).encode()))
    told = b"".join(message.get("body", b"") for _, message in sent)
    rest = told.partition(b'data: {"type":"message_stop"}\n\n')[2]
    assert COMMENT in rest
    assert rest.replace(COMMENT, b"") == b""


def test_a_generation_that_never_began_has_only_its_failure() -> None:
    api = Api(play(Wait(5.0), RuntimeError("the device failed")))
    sent = run(post(api.app, PATH, json.dumps(body(stream=True)).encode()))
    events = events_of("".join(message.get("body", b"").decode() for _, message in sent))
    assert [event["type"] for event in events] == ["error"]
