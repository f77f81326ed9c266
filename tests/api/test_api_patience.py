"""Answers that take minutes, on a fake clock: what goes out meanwhile, and how they end."""

import json
from itertools import pairwise
from typing import Any

from server.sse import PATIENCE
from tests.support.api import CHAT, Api, hello
from tests.support.fake_clock import post, run
from tests.support.scripted_engine import Wait, fail_after, play, say

LONG = 400.0
INTERVAL = 10.0


def messages(api: Api, **body: Any) -> list[tuple[float, dict[str, Any]]]:
    return run(post(api.app, CHAT, json.dumps(hello(**body)).encode()))


def longest_silence(sent: list[tuple[float, dict[str, Any]]]) -> float:
    moments = [0.0, *(moment for moment, _ in sent)]
    return max(after - before for before, after in pairwise(moments))


def test_a_stream_is_never_silent_for_longer_than_the_interval() -> None:
    sent = messages(Api(say("Hello", before=LONG)), stream=True)
    assert sent[-1][0] >= LONG
    assert longest_silence(sent) <= INTERVAL
    assert sent[0][0] == 0.0  # headers at once


def test_an_answer_in_one_piece_begins_before_it_is_there() -> None:
    sent = messages(Api(say("Hello", before=LONG)))
    assert sent[0][1]["status"] == 200
    assert sent[0][0] == PATIENCE * INTERVAL
    assert longest_silence(sent) <= PATIENCE * INTERVAL
    body = b"".join(message.get("body", b"") for _, message in sent)
    assert json.loads(body)["choices"][0]["message"]["content"] == "Hello"
    assert not sent[-1][1].get("more_body")


def test_an_answer_that_is_soon_there_has_a_length() -> None:
    sent = messages(Api(say("Hello", before=INTERVAL)))
    assert [message["type"] for _, message in sent] == ["http.response.start", "http.response.body"]
    assert b"content-length" in dict(sent[0][1]["headers"])


def test_a_failure_that_comes_soon_has_its_status() -> None:
    sent = messages(Api(fail_after("Hel")))
    assert sent[0][1]["status"] == 500


def test_a_failure_that_comes_late_cuts_the_connection() -> None:
    sent = messages(Api(play(Wait(LONG), RuntimeError("the device failed"))))
    assert sent[0][1]["status"] == 200
    assert sent[-1][1]["more_body"]
    assert b"".join(message.get("body", b"") for _, message in sent).strip() == b""


def test_who_leaves_while_white_space_is_sent_costs_nothing_more() -> None:
    api = Api(say("Hello", before=LONG))
    run(post(api.app, CHAT, json.dumps(hello()).encode(), read_for=100.0))
    assert api.engine.running == []
