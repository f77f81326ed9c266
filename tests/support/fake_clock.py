"""An event loop whose time jumps to the next timer whenever there is nothing else to do: hours pass in milliseconds."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_REAL_SECONDS = 0.002  # given to threads and sockets before time jumps


class _JumpingSelector(selectors.DefaultSelector):
    """Waits for nothing but real events, and adds up what it was asked to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.jumped = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        events = super().select(min(timeout, _REAL_SECONDS))
        if not events:
            self.jumped += timeout
        return events


class FakeClockLoop(asyncio.SelectorEventLoop):
    """`time` is what was jumped over, and moves in no other way."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.jumped


def run(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, in no time."""
    with asyncio.Runner(loop_factory=FakeClockLoop) as runner:
        return runner.run(work)


async def post(app: Any, path: str, body: bytes, read_for: float | None = None) -> list[tuple[float, dict[str, Any]]]:
    """Everything that the application sends in answer to a POST, and the loop's time at each message.

    With `read_for` the client leaves after so many seconds.
    """
    loop = asyncio.get_running_loop()
    sent: list[tuple[float, dict[str, Any]]] = []
    requests = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if requests:
            return requests.pop()
        await asyncio.sleep(read_for if read_for is not None else 1e9)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append((loop.time(), dict(message)))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path.partition("?")[0],
        "raw_path": path.partition("?")[0].encode(),
        "query_string": path.partition("?")[2].encode(),
        "root_path": "",
        "headers": [(b"host", b"test"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await app(scope, receive, send)
    return sent
