"""A proxy between a real client and the daemon. It keeps what was said, changes what is asked, and does harm once.

The harm goes to the first answer that makes the client act, so that what the client does about it is seen at once.
"""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.support.held_model import Json, Turn, Wire

RETRY_AFTER_SECONDS = 2
_LONGEST_ANSWER_SECONDS = 300
_OWN_HEADERS = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done to one answer: nothing, unless said otherwise."""

    refused: bool = False  # a 503 in its place
    silent_seconds: float = 0.0  # between its head and its body
    in_pieces: bool = False  # calls and texts come two characters at a time
    num_pieces: int | None = None  # the connection is closed after so many of these, or in the middle of what has none

    @property
    def is_cut(self) -> bool:
        return self.num_pieces is not None


NO_FAULT = Fault()


@dataclass(slots=True)
class Exchange:
    """A request and its answer. `asked` is what the client sent, `events` what the daemon did, streamed or not."""

    path: str
    turn: Turn = "side"
    asked: Json = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    status: int = 0
    harmed: bool = False
    events: list[Json] = field(default_factory=list)
    num_pieces: int = 0  # what the daemon said in one event and the client got in several


class FaultProxy(ThreadingHTTPServer):
    """Listens on a free port while it is entered. `held` is what becomes of a request for an answer."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, url: str, dialect: Wire, held: Callable[[Json], tuple[Turn, Json]], fault: Fault) -> None:
        super().__init__(("127.0.0.1", 0), _Relay)
        self.upstream = urlsplit(url).netloc
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.dialect = dialect
        self.held = held
        self.exchanges: list[Exchange] = []
        self.closing = threading.Event()
        self._fault = fault
        self._lock = threading.Lock()

    def began(self, path: str, turn: Turn, asked: Json) -> tuple[Exchange, Fault]:
        """A new exchange, and what to do to its answer."""
        exchange = Exchange(path, turn, asked)
        with self._lock:
            fault = self._fault if turn == "call" else NO_FAULT
            if turn == "call":
                self._fault = NO_FAULT
            self.exchanges.append(exchange)
        exchange.harmed = fault != NO_FAULT
        return exchange, fault

    def turns(self, turn: Turn) -> list[Exchange]:
        return [exchange for exchange in self.exchanges if exchange.turn == turn]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are no failure of the proxy's; what they did not get, the test sees."""


@contextlib.contextmanager
def fault_proxy(
    url: str, dialect: Wire, held: Callable[[Json], tuple[Turn, Json]], fault: Fault = NO_FAULT
) -> Iterator[FaultProxy]:
    with FaultProxy(url, dialect, held, fault) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.closing.set()
            proxy.shutdown()
            thread.join()


class _Relay(BaseHTTPRequestHandler):
    """One connection of the client's."""

    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def do_GET(self) -> None:
        self._relay(Exchange(self.path), NO_FAULT, b"")

    def do_HEAD(self) -> None:
        self._relay(Exchange(self.path), NO_FAULT, b"")

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        if urlsplit(self.path).path != self.server.dialect.path:
            self._relay(Exchange(self.path), NO_FAULT, content)
            return
        asked = json.loads(content)
        turn, held = self.server.held(asked)
        exchange, fault = self.server.began(self.path, turn, asked)
        if fault.refused:
            self._refuse(exchange)
        else:
            self._relay(exchange, fault, json.dumps(held).encode())

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: the exchanges are the log."""

    def _refuse(self, exchange: Exchange) -> None:
        exchange.status = 503
        content = json.dumps(self.server.dialect.refusal()).encode()
        self.send_response(503)
        self.send_header("Content-Type", "application/json")
        self.send_header("Retry-After", str(RETRY_AFTER_SECONDS))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _relay(self, exchange: Exchange, fault: Fault, content: bytes) -> None:
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=_LONGEST_ANSWER_SECONDS)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OWN_HEADERS}
        headers["Accept-Encoding"] = "identity"
        with contextlib.closing(upstream):
            upstream.request(self.command, self.path, content or None, headers)
            answer = upstream.getresponse()
            exchange.status = answer.status
            kind = answer.headers.get_content_type()
            is_stream = kind == "text/event-stream"
            whole = b"" if is_stream else answer.read()
            if whole and kind == "application/json":
                exchange.events.append(json.loads(whole))
            self._head(answer, None if is_stream else len(whole))
            self.server.closing.wait(fault.silent_seconds)
            if not is_stream and not fault.is_cut:
                self.wfile.write(whole)
            elif not is_stream:
                self.wfile.write(whole[: len(whole) // 2])
                self._cut()
            elif self._stream(answer, exchange, fault):
                self.wfile.write(b"0\r\n\r\n")
            else:
                self._cut()

    def _head(self, answer: http.client.HTTPResponse, length: int | None) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _OWN_HEADERS:
                self.send_header(name, value)
        name, value = ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length))
        self.send_header(name, value)
        self.end_headers()

    def _stream(self, answer: http.client.HTTPResponse, exchange: Exchange, fault: Fault) -> bool:
        """Hand the daemon's events on. Returns whether they came to their end."""
        try:
            for lines in _blocks(answer):
                event = _event_of(lines)
                if event is None:
                    self._write(lines)
                    continue
                exchange.events.append(event)
                parts = self.server.dialect.split(event) if fault.in_pieces else [event]
                for part in parts:
                    self._write([line for line in lines if not line.startswith(b"data:")] + [_data(part)])
                    exchange.num_pieces += len(parts) > 1
                    if exchange.num_pieces == fault.num_pieces:
                        return False
        except (http.client.HTTPException, TimeoutError):
            return False
        return True

    def _write(self, lines: list[bytes]) -> None:
        block = b"\n".join([*lines, b"", b""])
        self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


def _blocks(answer: http.client.HTTPResponse) -> Iterator[list[bytes]]:
    """The lines of each event or comment."""
    lines: list[bytes] = []
    while line := answer.readline():
        if line := line.rstrip(b"\r\n"):
            lines.append(line)
        elif lines:
            yield lines
            lines = []


def _event_of(lines: list[bytes]) -> Json | None:
    """What an event says; None for comments and the mark of the end."""
    data = [line.removeprefix(b"data:").strip() for line in lines if line.startswith(b"data:")]
    if not data or data == [b"[DONE]"]:
        return None
    event: Json = json.loads(data[0])
    return event


def _data(event: Json) -> bytes:
    return b"data: " + json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
