"""Whatever a messages request holds, the answer is a message or a sentence that names the trouble: never a crash."""

import json
from typing import Any

import pytest

from server.dialects.anthropic.schema import MessageBody, MessagesRequest, ToolBody
from tests.support.api import Api
from tests.support.scripted_engine import say

PATH, COUNT = "/v1/messages", "/v1/messages/count_tokens"
ODD: tuple[Any, ...] = (
    *(True, 0, -1, 2.5, 10**30, -(10**30), 1e308),
    *("", "x", "\x00", "\ud800", "9" * 100_000),
    *([], [None], [[]], [1, "x"], ["\ud83d"], {}, {"x": None}, {"type": "text"}, [{"type": 3}], [{"type": "text"}]),
)
REFERENCE = {"type": "tool_reference", "name": "f", "tool_name": "f"}
BLOCKS: tuple[Any, ...] = (
    {"type": "text", "text": "x"},
    {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}},
    {"type": "tool_result", "tool_use_id": "toolu_1", "content": "x", "is_error": True},
    {"type": "thinking", "thinking": "x", "signature": "x"},
    {"type": "document", "title": "x", "source": {"type": "text", "data": "x"}},
    {"type": "search_result", "title": "x", "source": "x", "content": [{"type": "text", "text": "x"}]},
    {"type": "tool_addition", "tool": REFERENCE},
    {"type": "tool_removal", "tool": REFERENCE},
    {"type": "compaction", "content": "x"},
    {"type": "web_search_tool_result", "content": []},
    REFERENCE,
)
TOOL: Any = {"name": "f", "input_schema": {"type": "object", "properties": {"a": {"type": "string"}}}}


def user(content: Any = "x") -> dict[str, Any]:
    return {"role": "user", "content": content}


def check(api: Api, body: dict[str, Any], *paths: str) -> None:
    content = json.dumps({"messages": [user()], "max_tokens": 2, **body}).encode()
    for path in paths or (PATH,):
        response = api.request("POST", path, content=content, headers={"content-type": "application/json"})
        assert response.status_code in {200, 400, 404}, (body, response.text)
        if response.headers["content-type"] == "application/json" and response.status_code != 200:
            error = response.json()["error"]
            assert "\n" not in error["message"]
            assert len(error["message"]) < 300
        assert api.engine.running == []


@pytest.mark.parametrize("name", [*MessagesRequest.model_fields, "unheard_of", "container"])
def test_odd_values(name: str) -> None:
    api = Api()
    for value in ODD:
        check(api, {name: value}, PATH, COUNT)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: str(block["type"]))
def test_odd_blocks(block: Any) -> None:
    api = Api()
    role = {"tool_use": "assistant", "tool_addition": "system"}.get(block["type"], "user")
    for name in (*block, "cache_control"):
        for value in ODD:
            odd = {**block, name: value}
            check(api, {"messages": [user(), {"role": role, "content": [odd]}, user()], "tools": [TOOL]})
            check(api, {"messages": [user([{"type": "tool_result", "content": [odd]}])]})


@pytest.mark.parametrize("name", MessageBody.model_fields)
def test_odd_messages(name: str) -> None:
    api = Api()
    for value in ODD:
        check(api, {"messages": [user(), {"role": "assistant", "content": "x", name: value}]})


@pytest.mark.parametrize("name", [*ToolBody.model_fields, "cache_control", "eager_input_streaming", "allowed_callers"])
def test_odd_tools(name: str) -> None:
    api = Api()
    for value in ODD:
        tool = {**TOOL, "defer_loading": True, name: value}
        definition = {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": tool}}
        check(api, {"tools": [tool]})
        check(api, {"messages": [user(), {"role": "system", "content": [definition]}]})
        check(api, {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "f", name: value}})
        check(api, {"tools": [{"name": "f", "input_schema": {"type": "object", name: value, "properties": value}}]})


DEEP = "a value whose depth is chosen below"
DEEP_BODIES: tuple[dict[str, Any], ...] = (
    {
        "messages": [
            user(),
            {"role": "assistant", "content": [{"type": "tool_use", "name": "f", "input": DEEP}]},
            user(),
        ]
    },
    {"tools": [{"name": "f", "input_schema": DEEP}]},
    {
        "messages": [user([{"type": "tool_result", "content": [{**REFERENCE, "tool_name": "g"}]}])],
        "tools": [TOOL, {"name": "g", "input_schema": DEEP, "defer_loading": True}],
    },
    {"output_config": {"format": {"type": "json_schema", "schema": DEEP}}},
    {"messages": [user([{"type": "image", "source": DEEP}])]},
    {"metadata": DEEP, "unheard_of": DEEP, "mcp_servers": [DEEP]},
)


@pytest.mark.parametrize("body", DEEP_BODIES, ids=range(len(DEEP_BODIES)))
def test_values_so_deep_that_they_can_be_read_and_perhaps_not_written(body: dict[str, Any]) -> None:
    api = Api()
    text = json.dumps({"messages": [user()], "max_tokens": 2, **body})
    statuses = []
    for depth in (10, 100, 300, *range(500, 1000, 20)):
        content = text.replace(json.dumps(DEEP), '{"a":' * depth + "1" + "}" * depth).encode()
        for path in (PATH, COUNT):
            response = api.request("POST", path, content=content, headers={"content-type": "application/json"})
            assert response.status_code in {200, 400}, (depth, response.text)
            statuses.append(response.status_code)
    assert statuses[-1] == 400


@pytest.mark.parametrize(
    "written",
    [
        "1e999",
        "[NaN]",
        "[-Infinity]",
        "[" * 400 + "]" * 400,
        *("[" * depth + "]" * depth for depth in range(940, 1000, 8)),
        "9" * 5000,
        "{",
        '{"a": 1, "a": 2}',
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_odd_arguments(written: str, stream: bool) -> None:
    """Whatever a model writes as an argument, none of it is lost."""
    call = f"<tool_call>\n<function=f>\n<parameter=a>\n{written}\n</parameter>\n</function>\n</tool_call>"
    api = Api(say(call, per_step=100))
    for schema in ({}, {"type": "object"}, {"type": "array"}, {"type": "number"}, {"type": ["object", "null"]}):
        tool = {"name": "f", "input_schema": {"type": "object", "properties": {"a": schema}}}
        body = {"messages": [user()], "max_tokens": 10_000, "tools": [tool], "stream": stream}
        response = api.post(PATH, body)
        assert response.status_code == 200
        assert "event: error" not in response.text
        if not stream:
            [block] = response.json()["content"]
            assert block["type"] == "tool_use"
