"""Answers that take their time, over ASGI: streams of events, patient JSON, and the watch for clients that leave.

Our own response class, because a broken generation must not end like a whole one: after an error event the body stops
without its terminating chunk, which agents notice, and without an exception through the server. sse-starlette always
completes the body, or raises through the server's error log. Knows no dialect: it sends the bytes it is given.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from server.errors import ApiError, InternalError
from server.json_text import json_response, to_json

logger = logging.getLogger(__name__)

T = TypeVar("T")

COMMENT = b": keep-alive\n\n"
PATIENCE = 3  # so many intervals, and an answer that is one object begins: from then on it has no other status
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_STILL_HERE = b" "  # which JSON may begin with


class Closable(Protocol):
    """What a stream holds while it runs; closing it twice does no harm."""

    async def aclose(self) -> None:
        """Let go of everything."""
        ...


class ClientGone(Exception):
    """The client closed the connection before its answer was whole."""


def data_event(payload: bytes, event: str | None = None) -> bytes:
    """One event, with a name or without; the payload has no line breaks (JSON escapes them)."""
    name = b"" if event is None else b"event: " + event.encode() + b"\n"
    return name + b"data: " + payload + b"\n\n"


class EventStream(Response):
    """Sends events as they come, a sign of life after each stretch of silence, and watches for the client to leave.

    When `events` raises `ApiError`, `encode_error` makes the last event and the connection is cut: returning without
    the final body message makes the server close the socket with no terminating chunk. However the stream ends,
    `source` is closed, and with it all that the events come from.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        source: Closable,
        encode_error: Callable[[ApiError], bytes],
        life_sign: Callable[[], bytes],
        life_sign_seconds: float,
        media_type: str = "text/event-stream",
    ) -> None:
        super().__init__(headers=_HEADERS, media_type=media_type)
        del self.headers["content-length"]
        self._events = events
        self._source = source
        self._encode_error = encode_error
        self._life_sign = life_sign
        self._life_sign_seconds = life_sign_seconds
        self._last_sent = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write the whole stream, or as much of it as the client stays for.

        Raises:
            ClientGone: the client left.
        """
        async with contextlib.aclosing(self._source), contextlib.aclosing(self._events):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await until_disconnect(receive, self._write(send))

    async def _write(self, send: Send) -> None:
        self._last_sent = _now()
        pulse = asyncio.create_task(self._show_life(send))
        try:
            error = await self._write_events(send)
        finally:
            await _cancel(pulse)
        if error is None:
            await send(_body(b"", more=False))
        else:
            await send(_body(self._encode_error(error)))

    async def _write_events(self, send: Send) -> ApiError | None:
        """Send every event; the failure that ended them, if one did."""
        try:
            async for chunk in self._events:
                self._last_sent = _now()
                await send(_body(chunk))
        except ApiError as error:
            return error
        except Exception:
            logger.exception("a stream could not be encoded")
            return InternalError()
        return None

    async def _show_life(self, send: Send) -> None:
        """Each send is a whole chunk, so a sign of life lands between two events and never inside one."""
        while True:
            silent = _now() - self._last_sent
            if silent >= self._life_sign_seconds:
                self._last_sent = _now()
                await send(_body(self._life_sign()))
                continue
            await asyncio.sleep(self._life_sign_seconds - silent)


class PatientJson(Response):
    """An answer that is one JSON object, for which the client has waited so long that it begins before it is there.

    White space goes ahead of it, so that nothing on the way takes the silence for a dead connection. When the work
    fails now, the connection is cut.
    """

    def __init__(self, working: "asyncio.Task[Any]", source: Closable, interval_seconds: float) -> None:
        super().__init__(media_type="application/json")
        del self.headers["content-length"]
        self._working = working
        self._source = source
        self._interval_seconds = interval_seconds

    @staticmethod
    async def of(receive: Receive, work: Coroutine[Any, Any, Any], source: Closable, interval: float) -> Response:
        """The result of `work` as JSON: at once if it comes within `PATIENCE` intervals, else as a `PatientJson`.

        `source` is what the work reads from; it is closed in any case.
        Raises:
            ApiError: the work failed, soon enough to say so.
            ClientGone: the client left.
        """
        working = asyncio.create_task(until_disconnect(receive, work))
        try:
            await asyncio.wait({working}, timeout=PATIENCE * interval)
            if not working.done():
                return PatientJson(working, source, interval)
            result = working.result()
        except BaseException:
            await _cancel(working)
            await source.aclose()
            raise
        await source.aclose()
        return json_response(result)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send white space until the result is there, then that.

        Raises:
            ClientGone: the client left.
        """
        async with contextlib.aclosing(self._source):
            try:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                while not self._working.done():
                    await send(_body(_STILL_HERE))
                    await asyncio.wait({self._working}, timeout=self._interval_seconds)
                await send(_body(to_json(self._working.result()), more=False))
            except ApiError:
                return
            finally:
                await _cancel(self._working)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _body(chunk: bytes, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": chunk, "more_body": more}


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, whose request body was read already, but cancel it as soon as the client leaves.

    Raises:
        ClientGone: it left.
    """
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        await _cancel(watching)
        await _cancel(working)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # looked at, so that asyncio does not report it
