"""Running the application on a socket until it is told to stop, and then letting it finish what it began.

The first SIGTERM or SIGINT closes the door: new requests get 503 while those under way go on, at most for the given
time. A second SIGINT ends the process at once. Knows the engine's life, not its work.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Protocol

import uvicorn
from starlette.types import ASGIApp

from engine.client import EngineClient

_LAST_WRITES_SECONDS = 5
_IDLE_CONNECTION_SECONDS = 75  # longer than clients keep theirs, so that they never reuse one that is being closed
_INTERRUPTED = 130


class StartableEngine(EngineClient, Protocol):
    """An engine whose loop has yet to be started."""

    async def start(self) -> None:
        """Start the loop."""
        ...


class DrainingServer(uvicorn.Server):
    """uvicorn, but a signal first drains the engine while the socket still answers."""

    def __init__(
        self, config: uvicorn.Config, engine: EngineClient, drain_seconds: float, on_listening: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._engine = engine
        self._on_listening = on_listening
        self._drain_seconds = drain_seconds
        self._stop_asked = False
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Runs as the signal's handler: only notes it, or ends everything."""
        if self._stop_asked and sig == signal.SIGINT:
            os._exit(_INTERRUPTED)
        self._stop_asked = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        await super().startup(sockets)
        self._on_listening()

    async def on_tick(self, counter: int) -> bool:
        """uvicorn asks ten times a second whether to stop."""
        if self._stop_asked and self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        return await super().on_tick(counter)

    async def _drain(self) -> None:
        try:
            await self._engine.drain(self._drain_seconds)
        finally:
            self.should_exit = True


def open_socket(host: str, port: int) -> socket.socket:
    """Take the address before the model is loaded, so that a port in use is known at once.

    Raises:
        OSError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except BaseException:
        listener.close()
        raise
    return listener


def run(
    app: ASGIApp,
    engine: StartableEngine,
    listener: socket.socket,
    shutdown_timeout_seconds: float,
    on_listening: Callable[[], None],
) -> None:
    """Serve until told to stop."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=_IDLE_CONNECTION_SECONDS,
        timeout_graceful_shutdown=_LAST_WRITES_SECONDS,
    )
    server = DrainingServer(config, engine, shutdown_timeout_seconds, on_listening)

    async def serve() -> None:
        await engine.start()
        try:
            await server.serve(sockets=[listener])
        finally:
            await engine.close()

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(serve())
