"""Failures in Ollama's words: one member `error`, a sentence; and nothing that a body holds is a crash."""

import json
from typing import Any

import pytest

from engine.errors import Overloaded
from server.dialects.ollama.parameters import OPTIONS, PARAMETERS
from server.dialects.ollama.schema import ChatRequest, GenerateRequest, MessageBody, ModelRequest, Options
from tests.support.api import Api
from tests.support.ollama import CHAT, GENERATE, chat
from tests.support.scripted_engine import ScriptedEngine, fail_after

ODD: tuple[Any, ...] = (
    *(True, 0, -1, 1, 2.5, 10**30, -(10**30), 1e308, 1e-320),
    *("", "x", "\x00", "\ud800", "9" * 100_000),
    *([], [None], [[]], [1, "x"], ["\ud83d"], {}, {"x": None}, {"type": "function"}, [{"type": 3}], [{"role": []}]),
)
MESSAGES = {"messages": [{"role": "user", "content": "x"}], "options": {"num_predict": 2}}
BODIES: dict[str, tuple[Any, dict[str, Any]]] = {
    CHAT: (ChatRequest, MESSAGES),
    GENERATE: (GenerateRequest, {"prompt": "x", "options": {"num_predict": 2}}),
    "/api/show": (ModelRequest, {}),
    "/api/pull": (ModelRequest, {"model": "tiny-qwen-coder"}),
}
FIELDS = [(path, name) for path, (schema, _) in BODIES.items() for name in schema.model_fields]


def error_of(response: Any, status: int) -> str:
    assert response.status_code == status, response.text
    body = response.json()
    assert body.keys() == {"error"}
    assert isinstance(body["error"], str)
    return str(body["error"])


@pytest.mark.parametrize("path", [CHAT, GENERATE, "/api/show"])
def test_a_model_that_is_not_served(path: str) -> None:
    response = Api().post(path, {**BODIES[path][1], "model": "llama3:8b"})
    assert error_of(response, 404) == "model 'llama3:8b' not found"


def test_a_key_is_needed() -> None:
    assert "API key" in error_of(Api(keys=("secret",)).get("/api/tags"), 401)
    headers = {"authorization": "Bearer secret"}
    assert Api(keys=("secret",)).get("/api/tags", headers=headers).status_code == 200


def test_bodies() -> None:
    api = Api(max_body_size=1000)
    assert "1000 bytes" in error_of(api.post(CHAT, {"x": "x" * 2000}), 413)
    json_type = {"content-type": "application/json"}
    assert "not valid JSON" in error_of(api.request("POST", CHAT, content=b"{", headers=json_type), 400)


def test_a_form_as_curl_sends_it_is_told_what_it_lacks() -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    error = error_of(Api().request("POST", CHAT, content=b"{}", headers=form), 415)
    assert "application/json" in error
    assert "curl: -H" in error


def test_paths_and_methods() -> None:
    assert "/api/nothing" in error_of(Api().get("/api/nothing"), 404)
    assert "GET" in error_of(Api().get("/api/chat"), 405)


@pytest.mark.parametrize("path", ["embed", "embeddings", "create", "copy", "push"])
def test_what_there_is_not(path: str) -> None:
    assert "does not offer" in error_of(Api().post(f"/api/{path}", {}), 501)


def test_a_full_line() -> None:
    engine = ScriptedEngine(refusal=Overloaded("full", "max_num_queued_reqs", 3.0))
    response = chat(Api(engine=engine))
    error_of(response, 503)
    assert response.headers["retry-after"] == "3"


def test_a_failed_generation() -> None:
    assert error_of(chat(Api(fail_after("Hel"))), 500) == "the device failed"


def test_a_conversation_that_does_not_fit() -> None:
    error = error_of(chat(Api(), {"role": "user", "content": "x" * 5000}), 400)
    assert "maximum context length is 4096 tokens. However, your messages resulted in 50" in error


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"options": {"temperature": 101}}, "options.temperature"),
        ({"options": {"repeat_penalty": 0}}, "options.repeat_penalty"),
        ({"options": {"top_p": 2}}, "options.top_p"),
        ({"options": {"stop": ["x"] * 33}}, "options.stop"),
        ({"options": {"mirostat": 2}}, "options.mirostat"),
        ({"options": {"tfs_z": 0.5}}, "options.tfs_z"),
        ({"options": {"typical_p": 0.5}}, "options.typical_p"),
        ({"options": []}, "options"),
        ({"format": "xml"}, "format"),
        ({"format": ["json"]}, "format"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"stream": "maybe"}, "stream"),
        ({"tools": [{"type": "web"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function.name"),
        ({"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}, "messages[0].images"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 3}}]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_what_is_wrong_is_named(body: dict[str, Any], named: str) -> None:
    assert named in error_of(Api().post(CHAT, {**MESSAGES, **body}), 400)


def test_a_schema_that_cannot_be_held_to() -> None:
    engine = ScriptedEngine(constraint_error="3 is no type")
    error = error_of(chat(Api(engine=engine), format={"type": 3}), 400)
    assert error == "format cannot be held to: 3 is no type."


def check(api: Api, path: str, body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()
    response = api.request("POST", path, content=content, headers={"content-type": "application/json"})
    assert response.status_code in {200, 400, 404, 501}, (body, response.text)
    if response.status_code != 200:
        message = response.json()["error"]
        assert "\n" not in message
        assert len(message) < 300
    else:
        assert not any("error" in json.loads(line) for line in response.text.splitlines())
    assert api.engine.running == []


@pytest.mark.parametrize(("path", "name"), FIELDS, ids=lambda value: value.removeprefix("/api/"))
def test_odd_values(path: str, name: str) -> None:
    api = Api()
    for value in ODD:
        check(api, path, {**BODIES[path][1], name: value})


@pytest.mark.parametrize("name", [*Options.model_fields, *OPTIONS.refused, *OPTIONS.ignored, "unheard_of"])
def test_odd_options(name: str) -> None:
    api = Api()
    for value in ODD:
        check(api, CHAT, {**MESSAGES, "options": {name: value}})


@pytest.mark.parametrize("name", [*PARAMETERS.refused, *PARAMETERS.ignored, "unheard_of"])
def test_odd_parameters(name: str) -> None:
    api = Api()
    for value in ODD:
        check(api, GENERATE, {"prompt": "x", name: value})


@pytest.mark.parametrize("name", [*MessageBody.model_fields, "thinking", "tool_name", "unheard_of"])
def test_odd_messages(name: str) -> None:
    api = Api()
    for role in ("user", "assistant", "tool"):
        for value in ODD:
            check(api, CHAT, {"messages": [{"role": role, "content": "x", name: value}]})


def test_odd_tools() -> None:
    api = Api()
    for value in ODD:
        check(api, CHAT, {**MESSAGES, "tools": [value]})
        check(api, CHAT, {**MESSAGES, "tools": [{"function": value}]})
        for name in ("name", "parameters", "description"):
            check(api, CHAT, {**MESSAGES, "tools": [{"function": {"name": "f", "parameters": {}, name: value}}]})
