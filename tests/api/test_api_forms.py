"""Answers of a given form: what the engine is asked to hold them to, and what a client hears when that cannot be."""

import json
from dataclasses import replace
from typing import Any

import pytest

from engine.types import Constraint
from server.chat.call_grammar import NO_CALLS, OPENING
from tests.support.api import WEATHER, Api
from tests.support.scripted_engine import ScriptedEngine, say

ODD: Any = {
    "type": "function",
    "function": {
        "name": "odd",
        "parameters": {
            "type": "object",
            "properties": {"fine": {"type": "integer"}, "bad": {"type": "array", "uniqueItems": True}},
        },
    },
}
CALL = "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>"


class PickyEngine(ScriptedEngine):
    """Compiles no grammar with one of these words in it."""

    words: tuple[str, ...] = ("uniqueItems",)

    async def check(self, constraint: Constraint) -> None:
        if any(word in constraint.grammar for word in self.words):
            self.constraint_error = "there is no such thing"
        try:
            await super().check(constraint)
        finally:
            self.constraint_error = None


def constraint_of(api: Api, **body: Any) -> Constraint | None:
    response = api.chat(**body)
    assert response.status_code == 200, response.text
    return api.engine.requests[-1].constraint


def test_free_text_is_not_held() -> None:
    assert constraint_of(Api()) is None
    assert constraint_of(Api(), response_format={"type": "text"}, structured_outputs=None) is None
    assert constraint_of(Api(), tool_choice="none") is None


@pytest.mark.parametrize("strict", ["off", "on"])
def test_a_text_without_calls(strict: str) -> None:
    constraint = constraint_of(Api(tool_strict=strict), tools=[ODD], tool_choice="none")
    assert constraint == Constraint(NO_CALLS)


def test_a_text_without_calls_that_cannot_be_held_to_is_left_free(caplog: pytest.LogCaptureFixture) -> None:
    engine = PickyEngine()
    engine.words = ("start",)
    assert constraint_of(Api(engine=engine), tools=[ODD], tool_choice="none") is None
    assert "tool_choice in a request cannot be held to" in caplog.text


def test_required_calls_are_the_whole_answer() -> None:
    constraint = constraint_of(Api(), tools=[WEATHER, ODD], tool_choice="required")
    assert constraint is not None
    assert constraint.opening is None
    assert '"weather>"' in constraint.grammar
    assert '"odd>"' in constraint.grammar
    assert 'call ("\\n" call)*' in constraint.grammar
    single = constraint_of(Api(), tools=[WEATHER], tool_choice="required", parallel_tool_calls=False)
    assert single is not None
    assert "call)*" not in single.grammar


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "function": {"name": "weather"}},
        {"type": "function", "name": "weather"},
        {
            "type": "allowed_tools",
            "allowed_tools": {
                "mode": "required",
                "tools": [{"type": "function", "function": {"name": "weather"}}],
            },
        },
    ],
)
def test_a_named_tool_is_the_only_one(choice: Any) -> None:
    constraint = constraint_of(Api(), tools=[ODD, WEATHER], tool_choice=choice)
    assert constraint is not None
    assert '"weather>"' in constraint.grammar
    assert '"odd>"' not in constraint.grammar


def test_calls_of_its_own_accord_are_held_unless_the_operator_says_no() -> None:
    constraint = constraint_of(Api(), tools=[WEATHER])
    assert constraint is not None
    assert constraint.opening == OPENING
    assert constraint_of(Api(tool_strict="off"), tools=[WEATHER]) is None
    strict = {**WEATHER, "function": {**WEATHER["function"], "strict": True}}
    assert constraint_of(Api(tool_strict="off"), tools=[strict]) is not None


def test_what_cannot_be_held_to_is_left_free(caplog: pytest.LogCaptureFixture) -> None:
    api = Api(engine=PickyEngine())
    constraint = constraint_of(api, tools=[ODD])
    assert constraint is not None
    assert "uniqueItems" not in constraint.grammar
    assert '"integer"' in constraint.grammar
    constraint_of(api, tools=[ODD])
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert "tools[0].function.parameters.properties.bad" in caplog.text


def test_when_nothing_can_be_held_to_a_conversation_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    engine = PickyEngine()
    engine.words = ("start",)
    assert constraint_of(Api(engine=engine), tools=[ODD]) is None
    assert "is left free" in caplog.text


@pytest.mark.parametrize("choice", ["required", "strict"])
def test_what_a_client_insists_on_is_held_to_or_refused(choice: str) -> None:
    function = {**ODD["function"], "strict": choice == "strict"}
    api = Api(engine=PickyEngine())
    response = api.chat(tools=[{**ODD, "function": function}], tool_choice="auto" if choice == "strict" else choice)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "tools[0].function.parameters.properties.bad"
    assert error["code"] == "invalid_schema"
    assert "there is no such thing" in error["message"]
    assert not api.engine.requests


def test_a_schema_that_no_call_can_carry() -> None:
    schema = {"type": "object", "properties": {"x": {"enum": ["a\n</parameter>\nb"]}}, "required": ["x"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    response = Api().chat(tools=[tool], tool_choice="required")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tools[0].function.parameters.properties.x"
    assert constraint_of(Api(), tools=[tool]) is not None


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"response_format": {"type": "json_object"}}, '"type": "object"'),
        ({"response_format": {"type": "json_object", "schema": {"type": "integer"}}}, '"type": "integer"'),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": ["q"]}}}},
            '"enum": ["q"]',
        ),
        ({"response_format": {"type": "json_schema", "schema": {"enum": ["q"]}}}, '"enum": ["q"]'),
        ({"structured_outputs": {"json": {"enum": ["q"]}}}, '"enum": ["q"]'),
        ({"structured_outputs": {"json": '{"enum": ["q"]}'}}, '"enum": ["q"]'),
        ({"structured_outputs": {"json_object": True}}, '"type": "object"'),
        ({"structured_outputs": {"regex": "[ab]+"}}, "[ab]+"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, '"yes" | "no"'),
        ({"structured_outputs": {"grammar": 'root ::= "q"'}}, '"q"'),
        ({"structured_outputs": {"grammar": 'start: "q"'}}, '"q"'),
        ({"grammar": 'root ::= "q"'}, '"q"'),
        ({"ebnf": 'root ::= "q"'}, '"q"'),
        ({"regex": "q+"}, "q+"),
        ({"json_schema": {"enum": ["q"]}}, '"enum": ["q"]'),
    ],
)
def test_forms_of_text(body: dict[str, Any], part: str) -> None:
    for constraint in (constraint_of(Api(), **body), _of_a_completion(body)):
        assert constraint is not None
        assert constraint.opening is None
        assert part in constraint.grammar.replace('\\"', '"')


def _of_a_completion(body: dict[str, Any]) -> Constraint | None:
    api = Api()
    assert api.request("POST", "/v1/completions", json={"prompt": "x", **body}).status_code == 200
    return api.engine.requests[-1].constraint


JSON_FORM: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}


def test_with_a_form_of_text_the_model_may_still_call() -> None:
    constraint = constraint_of(Api(), tools=[WEATHER], response_format=JSON_FORM)
    assert constraint is not None
    assert constraint.opening is None
    assert '"weather>"' in constraint.grammar
    assert "%json" in constraint.grammar
    alone = constraint_of(Api(), tools=[WEATHER], tool_choice="none", response_format=JSON_FORM)
    assert alone == constraint_of(Api(), response_format=JSON_FORM)
    required = constraint_of(Api(), tools=[WEATHER], tool_choice="required", response_format=JSON_FORM)
    assert required == constraint_of(Api(), tools=[WEATHER], tool_choice="required")


def test_tools_that_cannot_be_held_to_leave_the_form(caplog: pytest.LogCaptureFixture) -> None:
    engine = PickyEngine()
    engine.words = ('"odd>"',)
    constraint = constraint_of(Api(engine=engine), tools=[ODD], response_format=JSON_FORM)
    assert constraint == constraint_of(Api(), response_format=JSON_FORM)
    assert "is left free" in caplog.text


@pytest.mark.parametrize("per_step", [1, 100])
def test_text_of_a_form_has_no_calls_in_it(per_step: int) -> None:
    text = json.dumps({"a": f"see {CALL}"})
    for form in ({"response_format": JSON_FORM}, {"structured_outputs": {"regex": ".*"}}):
        choice = Api(say(text, per_step=per_step)).chat(tools=[WEATHER], **form).json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (text, "stop")
        assert "tool_calls" not in choice["message"]
    choice = Api(say(CALL, per_step=per_step)).chat(tools=[WEATHER], response_format=JSON_FORM).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "Oslo"}'
    regex = {"structured_outputs": {"regex": "(.|\\n)*"}}  # whose texts may begin as calls do
    choice = Api(say(CALL, per_step=per_step)).chat(tools=[WEATHER], **regex).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (CALL, "stop")


def test_a_form_that_the_engine_refuses_is_named() -> None:
    engine = PickyEngine()
    engine.words = ("[",)
    response = Api(engine=engine).chat(structured_outputs={"regex": "[a"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "structured_outputs.regex"


def test_calls_whose_answer_ends_at_the_token_limit_are_calls() -> None:
    """All that was called is complete, so the client has to run it; what is cut off is not presented at all."""
    script = say(CALL)
    whole = len(list(script(replace(_request(), sampling=replace(_request().sampling, max_tokens=None))))) - 1
    for limit, reason in ((whole, "tool_calls"), (whole - 14, "length")):
        choice = Api(script).chat(tools=[WEATHER], max_tokens=limit).json()["choices"][0]
        assert choice["finish_reason"] == reason
    for rest, reason in (("\n", "tool_calls"), ("\nWell", "tool_calls"), ("\n<tool_call>\n<func", "length")):
        limit = whole + len(list(say(rest)(_request()))) - 1
        script = say(f"{CALL}{rest}tion>")
        choice = Api(script).chat(tools=[WEATHER], max_tokens=limit).json()["choices"][0]
        assert choice["finish_reason"] == reason


def _request() -> Any:
    api = Api()
    api.chat()
    return api.engine.requests[-1]
