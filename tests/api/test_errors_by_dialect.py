"""Every failure in every dialect: the same status, and the words in the shape that its own clients read."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from engine.errors import Overloaded
from server.dialects import DIALECTS
from tests.support.api import Api, live, raw_exchange
from tests.support.scripted_engine import INFO, ScriptedEngine, fail_after

USER = [{"role": "user", "content": "Hi"}]
LONG = [{"role": "user", "content": "x" * 5000}]
IMAGE = "data:image/png;base64,AAAA"


@dataclass(frozen=True)
class Dialect:
    """One route of a dialect: a good body, others that go wrong in their own ways, and how to read its errors."""

    path: str
    good: dict[str, Any]
    overflow: dict[str, Any]
    image: dict[str, Any] | None
    bad_tool: dict[str, Any] | None
    read: Callable[[Any], tuple[str, str]]  # its kind and its message
    overflow_text: str = "maximum context length is 1000 tokens"


def openai(body: Any) -> tuple[str, str]:
    error = body["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert error["code"] is None or isinstance(error["code"], str)
    return error["type"], error["message"]


def anthropic(body: Any) -> tuple[str, str]:
    assert body["type"] == "error"
    return body["error"]["type"], body["error"]["message"]


def ollama(body: Any) -> tuple[str, str]:
    assert isinstance(body["error"], str)
    return "", body["error"]


def llamacpp(body: Any) -> tuple[str, str]:
    assert isinstance(body["error"]["code"], int)
    return body["error"]["type"], body["error"]["message"]


FUNCTION = {"type": "function", "function": {"name": "f", "parameters": "none"}}
ROUTES = {
    "openai-chat": Dialect(
        "/v1/chat/completions",
        {"messages": USER},
        {"messages": LONG},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": IMAGE}}]}]},
        {"messages": USER, "tools": [FUNCTION]},
        openai,
    ),
    "openai-completions": Dialect("/v1/completions", {"prompt": "def"}, {"prompt": "x" * 5000}, None, None, openai),
    "responses": Dialect(
        "/v1/responses",
        {"input": "Hi"},
        {"input": "x" * 5000},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": IMAGE}]}]},
        {"input": "Hi", "tools": [{"type": "function", "name": "f", "parameters": "none"}]},
        openai,
    ),
    "anthropic": Dialect(
        "/v1/messages",
        {"messages": USER, "max_tokens": 10},
        {"messages": LONG, "max_tokens": 10},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
                    ],
                }
            ],
            "max_tokens": 10,
        },
        {"messages": USER, "max_tokens": 10, "tools": [{"name": "f", "input_schema": "none"}]},
        anthropic,
        "prompt is too long: ",
    ),
    "ollama": Dialect(
        "/api/chat",
        {"messages": USER},
        {"messages": LONG},
        {"messages": [{"role": "user", "content": "Hi", "images": ["AAAA"]}]},
        {"messages": USER, "tools": [FUNCTION]},
        ollama,
    ),
    "llama.cpp": Dialect(
        "/completion",
        {"prompt": "def"},
        {"prompt": "x" * 5000},
        None,
        None,
        llamacpp,
        "exceeds the available context size (1000 tokens)",
    ),
}

served = pytest.mark.parametrize("name", ROUTES)


def told(name: str, response: httpx.Response, status: int) -> tuple[str, str]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    kind, message = ROUTES[name].read(response.json())
    assert message
    return kind, message


def ask(name: str, api: Api, **more: Any) -> httpx.Response:
    return api.post(ROUTES[name].path, {**ROUTES[name].good, **more})


def test_every_dialect_is_here() -> None:
    paths = [*(route.path for route in ROUTES.values()), "/api/v0/models"]  # LM Studio's is a list and no more
    scopes = [{"type": "http", "path": path} for path in paths]
    for dialect in DIALECTS[1:]:
        assert any(dialect.owns(scope) for scope in scopes)


@served
def test_a_good_request_is_answered(name: str) -> None:
    assert ask(name, Api()).status_code == 200


@served
@pytest.mark.parametrize("stream", [False, True])
def test_an_overflow_comes_before_any_header(name: str, stream: bool) -> None:
    route = ROUTES[name]
    api = Api(engine=ScriptedEngine(info=replace(INFO, max_model_len=1000)))
    _, message = told(name, api.post(route.path, {**route.overflow, "stream": stream}), 400)
    assert route.overflow_text in message
    assert "1000" in message


@served
def test_overload_says_when_to_come_again(name: str) -> None:
    engine = ScriptedEngine(refusal=Overloaded("7 requests wait already", "max_num_queued_reqs", 3.0))
    response = ask(name, Api(engine=engine))
    _, message = told(name, response, 503)
    assert "7 requests wait already" in message
    assert response.headers["retry-after"] == "3"


@served
def test_an_unknown_model(name: str) -> None:
    _, message = told(name, ask(name, Api(), model="gpt-9"), 404)
    assert "gpt-9" in message


@served
@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}, {"Authorization": "Bearer wrong"}])
def test_a_bad_key(name: str, headers: dict[str, str]) -> None:
    api = Api(keys=("right",))
    kind, message = told(name, api.post(ROUTES[name].path, ROUTES[name].good, headers=headers), 401)
    assert kind in ("authentication_error", "")
    assert "right" not in message


@served
@pytest.mark.parametrize("headers", [{"x-api-key": "right"}, {"Authorization": "Bearer right"}])
def test_a_good_key(name: str, headers: dict[str, str]) -> None:
    api = Api(keys=("right",))
    assert api.post(ROUTES[name].path, ROUTES[name].good, headers=headers).status_code == 200


@served
@pytest.mark.parametrize("body", [b"{", b"[]", b'"text"', b"\xff", b'{"a": NaN}', b"[" * 100_000])
def test_no_json_object(name: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    told(name, Api().request("POST", ROUTES[name].path, content=body, headers=headers), 400)


@served
def test_too_large_a_body(name: str) -> None:
    told(name, ask(name, Api(max_body_size=50), padding="x" * 100), 413)


@served
def test_a_wrong_content_type(name: str) -> None:
    content = json.dumps(ROUTES[name].good).encode()
    headers = {"Content-Type": "text/plain"}
    told(name, Api().request("POST", ROUTES[name].path, content=content, headers=headers), 415)


@pytest.mark.parametrize("name", [name for name, route in ROUTES.items() if route.image])
def test_an_image(name: str) -> None:
    body = ROUTES[name].image
    _, message = told(name, Api().post(ROUTES[name].path, body), 400)
    assert "image" in message


@pytest.mark.parametrize("name", [name for name, route in ROUTES.items() if route.bad_tool])
def test_a_tool_whose_schema_is_none(name: str) -> None:
    _, message = told(name, Api().post(ROUTES[name].path, ROUTES[name].bad_tool), 400)
    assert "tools[0]" in message


@served
def test_another_method(name: str) -> None:
    told(name, Api().request("PUT", ROUTES[name].path), 405)


@served
def test_a_generation_that_fails(name: str) -> None:
    told(name, ask(name, Api(fail_after("Hel")), stream=False), 500)


@served
def test_a_generation_that_fails_in_a_stream_ends_with_an_error_and_no_end(name: str) -> None:
    with live(Api(fail_after("Hel"))) as url:
        received = raw_exchange(url, {**ROUTES[name].good, "stream": True}, ROUTES[name].path)
    assert not received.endswith(b"0\r\n\r\n")
    lines = [line.removeprefix(b"data: ") for line in received.splitlines() if b"the device failed" in line]
    last = json.loads(lines[-1])
    assert last.get("error") or last["response"]["error"]
