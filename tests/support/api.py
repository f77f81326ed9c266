"""Calling the application: in the process without a socket, or over a real one."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from server.app import create_app
from server.auth import ApiKeys
from server.model import ServedModel
from server.settings import Settings
from tests.support.scripted_engine import Script, ScriptedEngine
from tests.support.tiny_text_model import tiny_model

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}


def hello(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}], **more}


class Api:
    """One application and its engine; every call is a whole event loop of its own."""

    def __init__(
        self,
        script: Script | None = None,
        *,
        engine: ScriptedEngine | None = None,
        model: ServedModel | None = None,
        keys: tuple[str, ...] = (),
        **settings: Any,
    ) -> None:
        self.engine = engine or (ScriptedEngine(script) if script else ScriptedEngine())
        self.app: FastAPI = create_app(self.engine, Settings(**settings), model or tiny_model(), ApiKeys(keys))

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        async def call() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **arguments)

        return asyncio.run(call())

    def get(self, path: str, **arguments: Any) -> httpx.Response:
        return self.request("GET", path, **arguments)

    def post(self, path: str, body: Any, **arguments: Any) -> httpx.Response:
        return self.request("POST", path, json=body, **arguments)

    def chat(self, **more: Any) -> httpx.Response:
        return self.post(CHAT, hello(**more))

    def complete(self, **body: Any) -> httpx.Response:
        return self.post(COMPLETIONS, {"prompt": "def f", "max_tokens": 100, **body})

    @property
    def asked(self) -> Any:
        """The last request the engine got."""
        return self.engine.requests[-1]


def chunks_of(text: str) -> list[dict[str, Any]]:
    """The JSON of every event, the end mark left out but insisted on."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@contextlib.contextmanager
def live(api: Api, http: str = "httptools") -> Iterator[str]:
    """Serve the application on a loopback socket in a thread; the URL of it."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        api.app, http=http, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def raw_exchange(url: str, body: dict[str, Any], path: str = CHAT) -> bytes:
    """Every byte the server sends until the body or the connection ends, or nothing comes for two seconds."""
    host, _, port = url.removeprefix("http://").partition(":")
    payload = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    received = b""
    with socket.create_connection((host, int(port)), timeout=2) as connection:
        connection.sendall(head.encode() + payload)
        with contextlib.suppress(TimeoutError):
            while not received.endswith(b"\r\n0\r\n\r\n") and (data := connection.recv(65536)):
                received += data
    return received


def eventually(condition: Any, seconds: float = 3.0) -> bool:
    """Whether it comes true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return bool(condition())
