"""POST /v1/responses: what becomes of every parameter, whatever stands in it."""

import json
from typing import Any

import pytest

from server.dialects.responses.parameters import IGNORED, REFUSED
from server.dialects.responses.schema import PromptFields, ResponseRequest
from tests.api.test_api_odd_values import ODD
from tests.support.api import Api
from tests.support.responses import PATH, answered, ask, refusal
from tests.support.scripted_engine import say
from tests.support.tiny_text_model import tiny_model


def test_what_was_asked_for_is_echoed() -> None:
    asked = {
        "instructions": "Be kind.",
        "max_output_tokens": 50,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "k",
        "store": False,
        "temperature": 0.5,
        "text": {"format": {"type": "json_object"}},
        "top_logprobs": 1,
        "top_p": 0.9,
    }
    response = answered(Api(), **asked)
    assert {name: response[name] for name in asked} == {
        **asked,
        "text": {"format": {"type": "json_object"}, "verbosity": "medium"},
    }
    assert response["object"] == "response"
    assert response["id"].startswith("resp_")
    assert response["model"] == "tiny-qwen-coder"
    assert response["error"] is response["incomplete_details"] is response["previous_response_id"] is None


def test_what_was_not_asked_for_has_its_usual_value() -> None:
    response = answered(Api(model=tiny_model(temperature=0.7)))
    assert (response["tools"], response["tool_choice"], response["metadata"]) == ([], "auto", {})
    assert (response["temperature"], response["store"], response["truncation"]) == (0.7, True, "disabled")
    assert response["text"]["format"] == {"type": "text"}


def test_sampling() -> None:
    api = Api()
    penalties = {"presence_penalty": 0.1, "frequency_penalty": 0.2, "repetition_penalty": 1.1}
    answered(api, temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, seed=3, max_output_tokens=9, **penalties)
    sampling = api.asked.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 7, 0.1)
    assert (sampling.seed, sampling.max_tokens) == (3, 9)
    assert {name: getattr(sampling, name) for name in penalties} == penalties


def test_a_stop_string_completes() -> None:
    response = answered(Api(say("one two three")), stop="two")
    assert response["status"] == "completed"
    assert response["output"][0]["content"][0]["text"] == "one "


def test_a_ceiling_is_no_expectation() -> None:
    assert answered(Api(), max_output_tokens=10**9)["status"] == "completed"


def test_forms() -> None:
    api = Api(say('{"a": 1}'))
    answered(api, text={"format": {"type": "text"}, "verbosity": "low"})
    assert api.asked.constraint is None
    answered(api, text={"format": {"type": "json_object"}})
    assert api.asked.constraint is not None
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    answered(api, text={"format": {"type": "json_schema", "name": "A", "strict": True, "schema": schema}})
    assert '"integer"' in api.asked.constraint.grammar


REFUSALS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
    ({"text": {"format": {"type": "json_schema", "schema": 7}}}, "text.format.schema"),
    ({"text": {"format": 7}}, "text.format"),
    ({"text": 7}, "text"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"temperature": -1}, "temperature"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"metadata": {"a": 7}}, "metadata.a"),
    ({"metadata": {"a" * 65: ""}}, "metadata"),
    ({"metadata": {"a": "b" * 513}}, "metadata"),
    ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
    ({"include": "x"}, "include"),
    ({"background": True}, "background"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"max_tokens": 5}, "max_tokens"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
)


@pytest.mark.parametrize(("change", "param"), REFUSALS)
def test_what_is_wrong_is_named(change: dict[str, Any], param: str) -> None:
    error = refusal(**change)
    assert error["param"] == param
    assert param in error["message"] or param == "previous_response_id"


def test_what_asks_for_nothing_passes() -> None:
    assert answered(Api(), background=False, conversation=None, response_format={"type": "text"})


def test_what_is_ignored_passes_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    assert answered(Api(), **{name: {"x": 1} for name in IGNORED})["status"] == "completed"
    assert "is not known here" not in caplog.text


def test_another_model_is_not_found() -> None:
    response = ask(Api(), model="gpt-4")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


FIELDS = [
    *((PATH, name) for name in (*ResponseRequest.model_fields, *REFUSED, *IGNORED)),
    *((f"{PATH}/input_tokens", name) for name in PromptFields.model_fields),
]
NESTED = (
    *(*ODD, {"type": "message"}, {"type": "function", "name": "f", "parameters": {"type": 3, "properties": [1]}}),
    *({"type": "custom", "name": "\ud800", "format": {"type": "grammar", "syntax": "regex", "definition": "\ud800"}},),
    *({"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "\ud800"}]},),
    *({"type": "function_call", "call_id": "\ud800", "name": "\ud800", "arguments": '{"\ud800": "\\ud800"}'},),
    *({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "\ud800"}], "id": "\ud800"},),
)


def check(api: Api, path: str, body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()
    response = api.request("POST", path, content=content, headers={"content-type": "application/json"})
    assert response.status_code in {200, 400, 404}, (body, response.text)
    if response.status_code != 200:
        message = response.json()["error"]["message"]
        assert "\n" not in message
        assert len(message) < 300
    elif path == PATH and response.headers["content-type"] == "application/json":
        kept = api.get(f"{PATH}/{response.json()['id']}")
        assert kept.status_code == (200 if response.json()["store"] else 404)
    assert api.engine.running == []


@pytest.mark.parametrize(("path", "name"), FIELDS, ids=lambda value: value.strip("/"))
def test_odd_values(path: str, name: str) -> None:
    api = Api()
    for value in ODD:
        check(api, path, {"input": "x", name: value})


@pytest.mark.parametrize("name", ["input", "tools", "include"])
def test_odd_members(name: str) -> None:
    api = Api()
    for value in NESTED:
        check(api, PATH, {"input": "x", name: [value]})


@pytest.mark.parametrize(
    "item",
    [
        {"type": "message", "role": "user", "content": "x"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "x"},
        {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "x"},
    ],
    ids=lambda item: str(item["type"]),
)
def test_odd_items(item: dict[str, Any]) -> None:
    api = Api()
    for name in (*item, "id", "status", "namespace", "phase"):
        for value in ODD:
            check(api, PATH, {"input": [{**item, name: value}]})


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "function", "name": "f", "parameters": {}, "strict": True, "description": "x"},
        {"type": "custom", "name": "f", "format": {}, "description": "x"},
        {"type": "namespace", "name": "f", "tools": [], "description": "x"},
    ],
    ids=lambda tool: str(tool["type"]),
)
def test_odd_tools(tool: dict[str, Any]) -> None:
    api = Api()
    for name in tool:
        for value in ODD:
            check(api, PATH, {"input": "x", "tools": [{**tool, name: value}]})
            check(api, PATH, {"input": "x", "tools": [{**tool, name: value}], "tool_choice": "required"})
    for value in ODD:
        check(api, PATH, {"input": "x", "tools": [tool], "tool_choice": {"type": "function", "name": value}})
        check(api, PATH, {"input": "x", "tools": [tool], "tool_choice": {"type": "allowed_tools", "tools": value}})
