"""Whatever a body holds, the answer is a result or a sentence that names the trouble: never a crash."""

import json
from typing import Any

import pytest

from server.dialects.openai.parameters import REFUSED
from server.dialects.openai.schema import ChatCompletionRequest, CompletionRequest, MessageBody
from server.dialects.openai.tokens import DetokenizeRequest, TokenizeRequest
from tests.support.api import CHAT, COMPLETIONS, Api, hello

ODD: tuple[Any, ...] = (
    *(True, 0, -1, 1, 2.5, 10**30, -(10**30), 1e308),
    *("", "x", "\x00", "\ud800", "9" * 100_000),
    *([], [None], [[]], [1, "x"], ["\ud83d"], {}, {"x": None}, {"type": "function"}, [{"type": 3}], [{"role": []}]),
)
BODIES: dict[str, tuple[Any, dict[str, Any]]] = {
    CHAT: (ChatCompletionRequest, hello(max_tokens=2)),
    COMPLETIONS: (CompletionRequest, {"prompt": "x", "max_tokens": 2}),
    "/tokenize": (TokenizeRequest, {"prompt": "x"}),
    "/detokenize": (DetokenizeRequest, {"tokens": [1]}),
}
FIELDS = [(path, name) for path, (schema, _) in BODIES.items() for name in schema.model_fields]


def check(api: Api, path: str, body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()
    response = api.request("POST", path, content=content, headers={"content-type": "application/json"})
    assert response.status_code in {200, 400, 404}, (body, response.text)
    if response.status_code != 200 and response.headers["content-type"] == "application/json":
        message = response.json()["error"]["message"]
        assert "\n" not in message
        assert len(message) < 300
    assert api.engine.running == []


@pytest.mark.parametrize(("path", "name"), FIELDS, ids=lambda value: value.strip("/"))
def test_odd_values(path: str, name: str) -> None:
    api = Api()
    for value in ODD:
        check(api, path, {**BODIES[path][1], name: value})


@pytest.mark.parametrize("name", [*MessageBody.model_fields, "name", "unheard_of"])
def test_odd_messages(name: str) -> None:
    api = Api()
    for role in ("user", "assistant", "tool"):
        for value in ODD:
            check(api, CHAT, {"messages": [{"role": role, "content": "x", name: value}]})


def test_odd_tools() -> None:
    api = Api()
    for name in ("name", "parameters", "description", "strict"):
        for value in ODD:
            function = {"name": "f", "parameters": {"type": "object"}, name: value}
            check(api, CHAT, hello(tools=[{"type": "function", "function": function}]))
    for value in ODD:
        check(api, CHAT, hello(tools=[value]))
        parameters = {"type": "object", "properties": value, "required": value}
        check(api, CHAT, hello(tools=[{"function": {"name": "f", "parameters": parameters}}]))
        properties = {"a": value, "b": {"type": value}}
        check(api, CHAT, hello(tools=[{"function": {"name": "f", "parameters": {"properties": properties}}}]))


def test_odd_refused_parameters() -> None:
    api = Api()
    for name in REFUSED:
        for value in ODD:
            check(api, CHAT, hello(**{name: value}))
