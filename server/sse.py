"""Server-sent events over ASGI, and the watch for clients that leave.

Our own response class, because a broken generation must not end like a whole one: after an error event the body stops
without its terminating chunk, which agents notice, and without an exception through the server. sse-starlette always
completes the body, or raises through the server's error log. Knows no dialect: it sends the bytes it is given.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from server.errors import ApiError, InternalError

logger = logging.getLogger(__name__)

T = TypeVar("T")

_KEEP_ALIVE = b": keep-alive\n\n"
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Closable(Protocol):
    """What a stream holds while it runs; closing it twice does no harm."""

    async def aclose(self) -> None:
        """Let go of everything."""
        ...


class ClientGone(Exception):
    """The client closed the connection before its answer was whole."""


def data_event(payload: bytes) -> bytes:
    """One event with only a data line; the payload has no line breaks (JSON escapes them)."""
    return b"data: " + payload + b"\n\n"


class EventStream(Response):
    """Sends events as they come, a comment after each stretch of silence, and watches for the client to leave.

    When `events` raises `ApiError`, `encode_error` makes the last event and the connection is cut: returning without
    the final body message makes the server close the socket with no terminating chunk. However the stream ends,
    `source` is closed, and with it all that the events come from.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        source: Closable,
        encode_error: Callable[[ApiError], bytes],
        keep_alive_seconds: float,
    ) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._events = events
        self._source = source
        self._encode_error = encode_error
        self._keep_alive_seconds = keep_alive_seconds
        self._last_sent = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write the whole stream, or as much of it as the client stays for.

        Raises:
            ClientGone: the client left.
        """
        async with contextlib.aclosing(self._source), contextlib.aclosing(self._events):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await until_disconnect(receive, self._write(send))

    async def _write(self, send: Send) -> None:
        pulse = asyncio.create_task(self._keep_alive(send))
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
                self._last_sent = time.monotonic()
                await send(_body(chunk))
        except ApiError as error:
            return error
        except Exception:
            logger.exception("a stream could not be encoded")
            return InternalError()
        return None

    async def _keep_alive(self, send: Send) -> None:
        """Each send is a whole chunk, so a comment lands between two events and never inside one."""
        while True:
            silent = time.monotonic() - self._last_sent
            if silent >= self._keep_alive_seconds:
                self._last_sent = time.monotonic()
                await send(_body(_KEEP_ALIVE))
                continue
            await asyncio.sleep(self._keep_alive_seconds - silent)


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
