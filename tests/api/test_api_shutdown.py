"""Signals to a running daemon."""

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.support.api import CHAT, chunks_of, eventually, hello


@contextlib.contextmanager
def daemon(answer: str, delay: float, shutdown_timeout: float) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    command = [sys.executable, "-m", "tests.support.scripted_daemon", answer, str(delay), str(shutdown_timeout)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


class Caller(threading.Thread):
    """Asks for one stream and keeps what came."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.text = ""
        self.start()
        assert eventually(lambda: self.text, 10)

    def run(self) -> None:
        with contextlib.suppress(httpx.HTTPError), httpx.stream("POST", self.url + CHAT, json=hello(stream=True)) as r:
            for text in r.iter_text():
                self.text += text

    def content(self) -> str:
        return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks_of(self.text))


def refused(url: str) -> bool:
    response = httpx.post(url + CHAT, json=hello())
    return response.status_code == 503 and int(response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_answers_finish(sent: signal.Signals) -> None:
    with daemon("x" * 40, 0.05, 30) as (process, url):
        caller = Caller(url)
        process.send_signal(sent)
        assert eventually(lambda: httpx.get(url + "/ready").status_code == 503)
        assert httpx.get(url + "/health").status_code == 200
        assert refused(url)
        caller.join(10)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert caller.content() == "x" * 40


def test_after_the_timeout_answers_are_ended() -> None:
    with daemon("x" * 3000, 0.05, 0.3) as (process, url):
        caller = Caller(url)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        caller.join(10)
    assert '"code":"request_aborted"' in caller.text
    assert "[DONE]" not in caller.text


def test_an_idle_daemon_stops_at_once() -> None:
    with daemon("x", 0, 30) as (process, url):
        assert httpx.get(url + "/health").status_code == 200
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert time.monotonic() - started < 5


def test_a_second_interrupt_ends_it_at_once() -> None:
    with daemon("x" * 3000, 0.05, 60) as (process, url):
        caller = Caller(url)
        process.send_signal(signal.SIGINT)
        assert eventually(lambda: httpx.get(url + "/ready").status_code == 503)
        process.send_signal(signal.SIGINT)
        assert process.wait(2) == 130
        caller.join(5)
    assert "[DONE]" not in caller.text
