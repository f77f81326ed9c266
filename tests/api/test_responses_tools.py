"""POST /v1/responses: the tools on offer, and the calls that go out under the client's names."""

import json
from typing import Any

import pytest

from engine.types import Constraint
from server.chat.call_grammar import NO_CALLS
from server.dialects.responses.offer import offer_of
from server.service import WarnOnce
from tests.support.api import Api
from tests.support.responses import CALL, WEATHER, answered, ask, prompt_of, refusal, streamed, written
from tests.support.scripted_engine import ScriptedEngine, say

PATCH: dict[str, Any] = {"type": "custom", "name": "patch", "description": "Changes a file."}
CLOSE: dict[str, Any] = {"type": "function", "name": "close", "description": "Ends one.", "strict": False}
AGENTS: dict[str, Any] = {"type": "namespace", "name": "agents", "description": "Helpers.", "tools": [CLOSE, PATCH]}


def bare_call(name: str) -> str:
    return f"<tool_call>\n<function={name}>\n</function>\n</tool_call>"


def calls_of(response: dict[str, Any]) -> list[dict[str, Any]]:
    return [item for item in response["output"] if item["type"] != "message"]


def offered(*tools: Any, **more: Any) -> list[str]:
    """The names in the prompt."""
    prompt = prompt_of(tools=list(tools), **more)
    return prompt.partition("Tools: ")[2].partition("<|im_end|>")[0].split(", ") if "Tools: " in prompt else []


def test_a_call_of_a_function() -> None:
    [call] = calls_of(answered(Api(say(CALL)), tools=[WEATHER]))
    assert call.pop("id").startswith("fc_")
    assert call.pop("call_id").startswith("call_")
    assert json.loads(call.pop("arguments")) == {"city": "Oslo", "days": 3}
    assert call == {"type": "function_call", "status": "completed", "name": "weather"}


def test_a_call_in_a_namespace_has_both_names() -> None:
    [call] = calls_of(answered(Api(say(bare_call("agents__close"))), tools=[AGENTS]))
    assert (call["name"], call["namespace"], call["arguments"]) == ("close", "agents", "{}")
    [call] = calls_of(answered(Api(say(written("agents__patch", "+a"))), tools=[AGENTS]))
    assert (call["type"], call["name"], call["namespace"]) == ("custom_tool_call", "patch", "agents")


def test_names_in_namespaces() -> None:
    assert offered(WEATHER, AGENTS) == ["weather", "agents__close", "agents__patch"]
    assert offered({**AGENTS, "name": "mcp__x__"}) == ["mcp__x__close", "mcp__x__patch"]


@pytest.mark.parametrize("text", ["+a", 'a "quoted"\n\n\t\\n line\n', "ü😀\u2028", "", "</parameter> inside"])
@pytest.mark.parametrize("per_step", [1, 3, 1000])
def test_a_call_of_a_tool_of_free_text(text: str, per_step: int) -> None:
    script = say(written("patch", text), per_step=per_step)
    [call] = calls_of(answered(Api(script), tools=[PATCH]))
    assert call.pop("id").startswith("ctc_")
    assert call.pop("call_id").startswith("call_")
    assert call == {"type": "custom_tool_call", "status": "completed", "name": "patch", "input": text}
    events = streamed(Api(script), tools=[PATCH])
    deltas = [event["delta"] for event in events if event["type"] == "response.custom_tool_call_input.delta"]
    [done] = [event for event in events if event["type"] == "response.custom_tool_call_input.done"]
    assert "".join(deltas) == done["input"] == text


def test_a_function_that_is_not_on_offer_is_one_of_that_name() -> None:
    [call] = calls_of(answered(Api(say(bare_call("other"))), tools=[WEATHER]))
    assert (call["type"], call["name"]) == ("function_call", "other")
    assert "namespace" not in call


def test_a_grammar_is_told_and_a_pattern_held() -> None:
    api = Api(say(written("patch", "ab")))
    lark = {"type": "grammar", "syntax": "lark", "definition": 'start: "ab"'}
    answered(api, tools=[{**PATCH, "format": lark}])
    unheld = api.asked.constraint
    regex = {"type": "grammar", "syntax": "regex", "definition": "^[ab]{2}$"}
    answered(api, tools=[{**PATCH, "format": regex}])
    assert "[ab]{2}" in api.asked.constraint.grammar
    assert "ab" not in unheld.grammar
    response = ask(Api(engine=ScriptedEngine(constraint_error="no such pattern")), tools=[{**PATCH, "format": regex}])
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("tools[0].")


@pytest.mark.parametrize(
    ("definition", "held"),
    [("a+", "a+"), ("^a$", "a"), (r"^[0-9]+\$", r"[0-9]+\$"), (r"a\\$", r"a\\"), (r"a\\\$$", r"a\\\$"), ("$", "")],
)
def test_a_pattern_may_say_that_it_is_one_of_the_whole_text(definition: str, held: str) -> None:
    tool = {"type": "custom", "name": "f", "format": {"type": "grammar", "syntax": "regex", "definition": definition}}
    [offered] = offer_of((tool,), None, True, WarnOnce()).tools
    assert offered.spec["parameters"]["properties"]["input"]["pattern"] == f"^(?:{held})$"


@pytest.mark.parametrize(
    "kind", ["web_search", "image_generation", "local_shell", "file_search", "mcp", "computer_use_preview", "new_one"]
)
def test_tools_of_the_maker_are_passed_over(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    assert offered({"type": kind}, WEATHER) == ["weather"]
    assert caplog.text.count(kind) == 1
    assert offered({**AGENTS, "tools": [{"type": kind}, CLOSE]}) == ["agents__close"]


def test_tools_of_every_kind_are_echoed() -> None:
    tools = [WEATHER, AGENTS, PATCH, {"type": "web_search", "external_web_access": True}]
    assert answered(Api(), tools=tools)["tools"] == tools


@pytest.mark.parametrize(
    ("choice", "allowed"),
    [
        ("required", {"weather", "patch", "agents__close", "agents__patch"}),
        ({"type": "function", "name": "weather"}, {"weather"}),
        ({"type": "function", "name": "close", "namespace": "agents"}, {"agents__close"}),
        ({"type": "function", "name": "agents__close"}, {"agents__close"}),
        ({"type": "custom", "name": "patch"}, {"patch"}),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "custom", "name": "patch"}, {"type": "x"}],
            },
            {"patch"},
        ),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "namespace", "name": "agents"}]},
            {"agents__close", "agents__patch"},
        ),
    ],
)
def test_calls_that_must_come(choice: Any, allowed: set[str]) -> None:
    api = Api(say(CALL))
    answered(api, tools=[WEATHER, PATCH, AGENTS], tool_choice=choice)
    assert api.asked.constraint.opening is None
    grammar = api.asked.constraint.grammar
    names = {"weather", "patch", "agents__close", "agents__patch"}
    assert {name for name in names if f'"{name}>"' in grammar} == allowed


def test_calls_that_may_come() -> None:
    api = Api(say(f"{CALL}\n{CALL}"))
    assert len(calls_of(answered(api, tools=[WEATHER]))) == 2
    assert len(calls_of(answered(api, tools=[WEATHER], parallel_tool_calls=False))) == 1


def test_calls_that_may_not_come() -> None:
    api = Api(say(CALL))
    response = answered(api, tools=[WEATHER, AGENTS], tool_choice="none")
    assert response["tool_choice"] == "none"
    assert not calls_of(response)
    assert api.asked.constraint == Constraint(NO_CALLS)
    assert offered(WEATHER, AGENTS, tool_choice="none") == offered(WEATHER, AGENTS)
    assert answered(api, tool_choice="none")["tool_choice"] == "none"
    assert api.asked.constraint is None


REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"tools": 7}, "tools"),
    ({"tools": [7]}, "tools[0]"),
    ({"tools": [{}]}, "tools[0].type"),
    ({"tools": [{"type": 7}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"tools": [{**WEATHER, "name": 7}]}, "tools[0].name"),
    ({"tools": [{**WEATHER, "description": 7}]}, "tools[0].description"),
    ({"tools": [{**WEATHER, "parameters": 7}]}, "tools[0].parameters"),
    ({"tools": [{**AGENTS, "tools": None}]}, "tools[0].tools"),
    ({"tools": [{**AGENTS, "tools": [7]}]}, "tools[0].tools[0]"),
    ({"tools": [{**AGENTS, "tools": [{"type": "function"}]}]}, "tools[0].tools[0].name"),
    ({"tools": [{**AGENTS, "name": ""}]}, "tools[0].name"),
    ({"tools": [{**PATCH, "format": {"type": "x"}}]}, "tools[0].format.type"),
    ({"tools": [{**PATCH, "format": {"type": "grammar", "syntax": "x", "definition": "a"}}]}, "tools[0].format.syntax"),
    ({"tools": [{**PATCH, "format": {"type": "grammar", "syntax": "lark"}}]}, "tools[0].format.definition"),
    ({"tools": [WEATHER, {**PATCH, "name": "weather"}]}, "tools[1]"),
    ({"tools": [{**WEATHER, "name": "agents__close"}, AGENTS]}, "tools[1].tools[0]"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": "sometimes"}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "web_search"}}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "custom", "name": "weather"}}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "tools": [7]}}, "tool_choice.tools"),
    (
        {
            "tools": [WEATHER],
            "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "other"}]},
        },
        "tool_choice.tools[0]",
    ),
)


@pytest.mark.parametrize(("change", "param"), REFUSED)
def test_what_is_wrong_is_named(change: dict[str, Any], param: str) -> None:
    assert refusal(**change)["param"] == param
