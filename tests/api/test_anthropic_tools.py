"""Tools that a request leaves aside until the conversation names them: told of there, so that the prompt's beginning
stays what it was."""

import json
from typing import Any

import pytest

from engine.types import Constraint
from server.chat.call_grammar import NO_CALLS
from tests.support.api import Api
from tests.support.scripted_engine import TOKENIZER, say

PATH = "/v1/messages"
SEARCH: Any = {"name": "search", "input_schema": {"type": "object", "properties": {"query": {"type": "string"}}}}
FETCH: Any = {
    "name": "fetch",
    "description": "Fetches.",
    "input_schema": {"type": "object", "properties": {"url": {"type": "string"}, "most": {"type": "integer"}}},
}
DEFERRED: Any = {**FETCH, "defer_loading": True, "eager_input_streaming": True, "cache_control": {"type": "ephemeral"}}
USER: Any = {"role": "user", "content": "Hi"}
SEARCHED: tuple[Any, ...] = (
    USER,
    {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "toolu_1", "name": "search", "input": {"query": "f"}}],
    },
)
FOUND: Any = {
    "type": "tool_result",
    "tool_use_id": "toolu_1",
    "content": [{"type": "tool_reference", "tool_name": "fetch"}],
}
CALL = "<tool_call>\n<function=fetch>\n<parameter=most>\n3\n</parameter>\n</function>\n</tool_call>"
TOLD = json.dumps({"name": "fetch", "description": "Fetches.", "parameters": FETCH["input_schema"]})


def ask(api: Api, *messages: Any, **more: Any) -> Any:
    response = api.post(PATH, {"messages": list(messages), "max_tokens": 500, **more})
    assert response.status_code == 200, response.text
    return response.json()


def prompt_of(*messages: Any, **more: Any) -> str:
    api = Api()
    ask(api, *messages, **more)
    return TOKENIZER.decode(api.asked.prompt_ids, skip_special_tokens=False)


def system(*blocks: Any, **more: Any) -> Any:
    return {"role": "system", "content": list(blocks), **more}


def added(tool: Any) -> Any:
    return {"type": "tool_addition", "tool": tool}


def test_a_tool_left_aside_is_told_of_where_it_is_found_and_the_beginning_stays() -> None:
    before = prompt_of(USER, tools=[SEARCH])
    assert prompt_of(USER, tools=[DEFERRED, SEARCH]) == before
    after = prompt_of(*SEARCHED, {"role": "user", "content": [FOUND]}, tools=[DEFERRED, SEARCH])
    assert after.startswith(before.removesuffix("<|im_start|>assistant\n"))
    assert after.count(TOLD) == 1


def test_a_tool_that_was_found_is_on_offer() -> None:
    api = Api(say(CALL))
    result = {"role": "user", "content": [FOUND]}
    answer = ask(api, *SEARCHED, result, tools=[DEFERRED, SEARCH])
    assert answer["content"][0]["input"] == {"most": 3}
    assert api.asked.constraint is not None
    named = Api(say(CALL))
    ask(named, *SEARCHED, result, tools=[DEFERRED, SEARCH], tool_choice={"type": "tool", "name": "fetch"})
    assert named.asked.constraint.opening is None


def test_a_tool_that_was_not_found_cannot_be_asked_for() -> None:
    body = {"messages": [USER], "max_tokens": 9, "tools": [DEFERRED, SEARCH]}
    response = Api().post(PATH, {**body, "tool_choice": {"type": "tool", "name": "fetch"}})
    assert response.status_code == 400
    assert "there are: 'search'" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "others", [(), ({"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}, SEARCH)]
)
def test_nothing_is_left_aside_that_nothing_here_could_find(others: tuple[Any, ...]) -> None:
    assert "fetch" in prompt_of(USER, tools=[*others, DEFERRED])


def test_a_message_adds_a_tool_by_name() -> None:
    reference = added({"type": "tool_reference", "name": "fetch"})
    assert prompt_of(USER, system(reference), tools=[DEFERRED, SEARCH]).count(TOLD) == 1
    known = prompt_of(USER, system(reference), tools=[FETCH, SEARCH])
    assert TOLD not in known
    assert "The function fetch can be called from here on." in known


def test_a_message_adds_a_tool_whole() -> None:
    definition = added({"type": "tool_definition", "definition": {**FETCH, "type": "custom"}})
    assert prompt_of(USER, system(definition)).count(TOLD) == 1
    assert ask(Api(say(CALL)), USER, system(definition))["content"][0]["input"] == {"most": 3}
    server = added({"type": "tool_definition", "definition": {"type": "web_search_20250305", "name": "web_search"}})
    assert prompt_of(USER, system(server)) == prompt_of(USER)


def test_a_message_takes_a_tool_away() -> None:
    removal = {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "fetch"}}
    assert "The function fetch can no longer be called." in prompt_of(USER, system(removal), tools=[FETCH])


def test_tools_that_were_found_stay_where_calls_are_forbidden() -> None:
    result = {"role": "user", "content": [FOUND]}
    api = Api(say(CALL))
    answer = ask(api, *SEARCHED, result, tools=[DEFERRED, SEARCH], tool_choice={"type": "none"})
    assert [block["type"] for block in answer["content"]] == ["text"]
    assert TOLD in TOKENIZER.decode(api.asked.prompt_ids, skip_special_tokens=False)
    assert api.asked.constraint == Constraint(NO_CALLS)


def test_a_strict_schema_that_cannot_be_held_to_is_named_where_it_stands() -> None:
    schema = {"type": "object", "properties": {"n": {"enum": ["a\n</parameter>\nb"]}}, "required": ["n"]}
    tool = {"name": "f", "input_schema": schema, "strict": True}
    skipped = {"type": "web_search_20250305", "name": "web_search"}
    response = Api().post(PATH, {"messages": [USER], "max_tokens": 9, "tools": [skipped, tool]})
    assert response.status_code == 400
    assert "tools[1].input_schema.properties.n cannot be held to" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("tool", "named"),
    [
        (None, "messages[0].content[0].tool"),
        ({"type": "mcp_toolset_reference", "name": "x"}, "messages[0].content[0].tool"),
        ({"type": "tool_reference"}, "messages[0].content[0].tool.name"),
        ({"type": "tool_reference", "name": ""}, "messages[0].content[0].tool.name"),
        ({"type": "tool_definition"}, "messages[0].content[0].tool.definition"),
        ({"type": "tool_definition", "definition": {"name": 7}}, "messages[0].content[0].tool.definition.name"),
        ({"type": "tool_definition", "definition": {"input_schema": {}}}, "tool.definition.name is required"),
    ],
)
def test_what_is_no_tool_is_named(tool: Any, named: str) -> None:
    response = Api().post(PATH, {"messages": [system(added(tool))], "max_tokens": 9})
    assert response.status_code == 400
    assert named in response.json()["error"]["message"]
