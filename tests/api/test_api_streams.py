"""Streams over a real socket: how they end, breathe and are left."""

import contextlib
import json
import logging
import socket
import threading
import time
from typing import Any

import httpx
import pytest

from tests.support.api import CHAT, COMPLETIONS, Api, chunks_of, eventually, hello, live, raw_exchange
from tests.support.scripted_engine import fail_after, play, say

END_OF_BODY = b"0\r\n\r\n"
LONG = "x" * 3000


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_a_whole_stream_ends_properly(http: str) -> None:
    with live(Api(), http) as url:
        received = raw_exchange(url, hello(stream=True))
    assert b"data: [DONE]\n\n" in received
    assert received.endswith(END_OF_BODY)


@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_broken_stream_is_cut_after_its_error(http: str, path: str, caplog: pytest.LogCaptureFixture) -> None:
    api = Api(fail_after("Hel"))
    body = hello(stream=True) if path == CHAT else {"prompt": "x", "stream": True}
    with caplog.at_level(logging.INFO), live(api, http) as url:
        received = raw_exchange(url, body, path)
        assert eventually(lambda: any(record.name == "server.access" for record in caplog.records))
    assert received.startswith(b"HTTP/1.1 200")
    assert b"chunked" in received
    last = received.rpartition(b"data: ")[2].split(b"\n")[0]
    assert json.loads(last) == {
        "error": {"message": "the device failed", "type": "server_error", "param": None, "code": "internal_error"}
    }
    assert b"[DONE]" not in received
    assert END_OF_BODY not in received
    assert "Traceback" not in caplog.text
    [line] = [record.fields for record in caplog.records if record.name == "server.access"]  # type: ignore[attr-defined]
    assert line["error"] == "internal_error"
    assert line["finish_reason"] == "error"


def test_a_client_sees_the_cut() -> None:
    with live(Api(fail_after("Hel"))) as url, pytest.raises(httpx.RemoteProtocolError):
        httpx.post(url + CHAT, json=hello(stream=True))


def test_a_bug_in_the_engine_cuts_the_stream_too() -> None:
    with live(Api(play(RuntimeError("boom")))) as url:
        received = raw_exchange(url, hello(stream=True))
    assert b'"code":"internal_error"' in received
    assert END_OF_BODY not in received


def test_the_connection_of_a_whole_stream_is_used_again() -> None:
    with live(Api()) as url, httpx.Client() as client:
        for _ in range(3):
            assert client.post(url + CHAT, json=hello(stream=True)).text.endswith("data: [DONE]\n\n")


def test_keep_alive_comments_fill_the_silence() -> None:
    with live(Api(say("Hello", before=0.5), sse_keep_alive_interval=0.1)) as url:
        text = httpx.post(url + CHAT, json=hello(stream=True)).text
    silence, _, _ = text.partition("data: ")
    assert silence.count(": keep-alive\n\n") >= 3
    assert silence.replace(": keep-alive\n\n", "") == ""
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks_of(text)) == "Hello"


def test_no_keep_alive_while_tokens_flow() -> None:
    with live(Api(say("Hello there", delay=0.03), sse_keep_alive_interval=0.2)) as url:
        assert "keep-alive" not in httpx.post(url + CHAT, json=hello(stream=True)).text


def test_headers_come_before_the_first_token() -> None:
    with live(Api(say("Hello", before=1.5))) as url, httpx.Client() as client:
        started = time.monotonic()
        with client.stream("POST", url + CHAT, json=hello(stream=True)) as response:
            assert response.status_code == 200
            assert time.monotonic() - started < 1.0


@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [say("x", before=60), say(LONG, delay=0.01)], ids=["silent", "writing"])
def test_a_client_that_leaves_frees_its_sequences(http: str, stream: bool, script: Any) -> None:
    api = Api(script)
    with live(api, http) as url:
        _send_and_leave(url, hello(stream=stream, n=2), lambda: len(api.engine.running) == 2)
        assert eventually(lambda: not api.engine.running, 1.0)


def _send_and_leave(url: str, body: dict[str, Any], ready: Any) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    payload = json.dumps(body).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + payload)
        assert eventually(ready)


def test_a_client_that_leaves_is_told_of_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    api = Api(say("x", before=60))
    with caplog.at_level(logging.INFO), live(api) as url:
        _send_and_leave(url, hello(stream=True), lambda: api.engine.running)
        assert eventually(lambda: any(record.name == "server.access" for record in caplog.records))
    [line] = [record.fields for record in caplog.records if record.name == "server.access"]  # type: ignore[attr-defined]
    assert line["disconnected"] is True
    assert line["finish_reason"] == "abort"
    assert "Traceback" not in caplog.text


def test_the_time_limit_before_the_headers() -> None:
    api = Api(say("x", before=60), request_timeout=0.2)
    with live(api) as url:
        response = httpx.post(url + CHAT, json=hello())
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "request_timeout"
    assert response.headers["x-should-retry"] == "false"
    assert api.engine.running == []


def test_the_time_limit_in_a_stream() -> None:
    api = Api(say(LONG, delay=0.01), request_timeout=0.3)
    with live(api) as url:
        received = raw_exchange(url, hello(stream=True))
    assert b'"content":"x"' in received
    assert b'"code":"request_timeout"' in received
    assert END_OF_BODY not in received
    assert api.engine.running == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("request_id", "named"),
    [("mine", "chatcmpl-mine"), ("a/b", "a/b"), ("cmpl-7", "cmpl-7"), ("cmpl-7", "cmpl-cmpl-7")],
)
def test_an_aborted_answer_does_not_look_like_a_whole_one(stream: bool, request_id: str, named: str) -> None:
    api = Api(say(LONG, delay=0.005))
    received: list[bytes] = []
    with live(api) as url:
        body = hello(stream=stream, request_id=request_id)
        client = threading.Thread(target=lambda: received.append(raw_exchange(url, body)))
        client.start()
        assert eventually(lambda: api.engine.running)
        time.sleep(0.1)
        assert httpx.post(f"{url}/abort/{named}").json() == {"request_id": request_id, "aborted": True}
        client.join(5)
    assert received[0].startswith(b"HTTP/1.1 200" if stream else b"HTTP/1.1 503")
    assert b'"request_aborted"' in received[0]
    assert b"[DONE]" not in received[0]
    assert END_OF_BODY not in received[0]
    assert api.engine.running == []


def test_many_streams_at_once() -> None:
    with live(Api(say("Hello there", delay=0.002))) as url:
        texts: list[str] = []

        def call() -> None:
            with contextlib.suppress(httpx.HTTPError):
                texts.append(httpx.post(url + CHAT, json=hello(stream=True)).text)

        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert len(texts) == 8
    for text in texts:
        assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks_of(text)) == "Hello there"
