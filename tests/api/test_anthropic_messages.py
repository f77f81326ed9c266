"""POST /v1/messages: from blocks to the prompt, and from events to a message."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from engine.types import Constraint
from server.chat.call_grammar import NO_CALLS
from tests.support.api import Api
from tests.support.event_streams import events_of
from tests.support.fake_clock import post, run
from tests.support.scripted_engine import INFO, TOKENIZER, ScriptedEngine, say

PATH = "/v1/messages"
USER = {"role": "user", "content": "Hi"}
TOOL = {
    "name": "weather",
    "description": "Looks outside.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
}
CALL = (
    "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n"
    "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"
)


def ask(api: Api, *messages: Any, **more: Any) -> Any:
    return api.post(PATH, {"messages": list(messages or (USER,)), "max_tokens": 500, **more})


def prompt_of(*messages: Any, **more: Any) -> str:
    api = Api()
    response = ask(api, *messages, **more)
    assert response.status_code == 200, response.text
    return TOKENIZER.decode(api.asked.prompt_ids, skip_special_tokens=False)


def refusal(*messages: Any, **more: Any) -> str:
    response = ask(Api(), *messages, **more)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"
    message: str = response.json()["error"]["message"]
    return message


def test_an_answer() -> None:
    answer = ask(Api(say("Hello", cached=3))).json()
    assert answer.pop("id").startswith("msg_")
    usage = answer.pop("usage")
    assert answer == {
        "type": "message",
        "role": "assistant",
        "model": "tiny-qwen-coder",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
    }
    assert usage["cache_read_input_tokens"] == 3
    assert usage["output_tokens"] == 6
    counted = Api().post(f"{PATH}/count_tokens", {"messages": [USER]}).json()
    assert usage["input_tokens"] + 3 == counted["input_tokens"]


@pytest.mark.parametrize("per_step", [1, 2, 7, 1000])
def test_the_order_of_events(per_step: int) -> None:
    api = Api(say(f"I look. {CALL}\n{CALL.replace('Oslo', 'Rome')} Done.", per_step=per_step))
    events = events_of(ask(api, tools=[TOOL], stream=True).text)
    kinds = [event["type"] for event in events]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    starts = [event for event in events if event["type"] == "content_block_start"]
    assert [start["content_block"]["type"] for start in starts] == ["text", "tool_use", "tool_use", "text"]
    assert [start["index"] for start in starts] == [0, 1, 2, 3]
    open_block, told = None, {}
    for event in events:
        if event["type"] == "content_block_start":
            assert open_block is None
            open_block, told[event["index"]] = event["index"], ""
        elif event["type"] == "content_block_stop":
            assert event["index"] == open_block
            open_block = None
        elif event["type"] == "content_block_delta":
            assert event["index"] == open_block
            told[open_block] += event["delta"].get("text", "") + event["delta"].get("partial_json", "")
    assert told[0] == "I look."
    assert json.loads(told[1]) == {"city": "Oslo", "days": 3}
    assert json.loads(told[2]) == {"city": "Rome", "days": 3}
    assert told[3].strip() == "Done."
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}


def test_calls_in_one_piece() -> None:
    answer = ask(Api(say(f"I look. {CALL}")), tools=[TOOL]).json()
    text, call = answer["content"]
    assert text == {"type": "text", "text": "I look."}
    assert call["id"].startswith("toolu_")
    assert (call["name"], call["input"]) == ("weather", {"city": "Oslo", "days": 3})
    assert answer["stop_reason"] == "tool_use"


def test_a_call_that_is_cut_off_is_not_lost() -> None:
    answer = ask(Api(say(CALL)), tools=[TOOL], max_tokens=len(CALL) - 60).json()
    assert answer["stop_reason"] == "max_tokens"
    assert "Os" in str(answer["content"])


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_sequence(stream: bool) -> None:
    response = ask(Api(say("one two three")), stop_sequences=["two"], stream=stream)
    answer = events_of(response.text)[-2]["delta"] if stream else response.json()
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "two")


def test_a_conversation_with_results() -> None:
    prompt = prompt_of(
        {"role": "user", "content": [{"type": "text", "text": "Rain?", "cache_control": {"type": "ephemeral"}}]},
        {"role": "system", "content": "Be brief."},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "x"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}},
                {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {"city": "Rome"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": [{"type": "text", "text": "sun"}]},
                {"type": "text", "text": "Well?"},
            ],
        },
        system=[{"type": "text", "text": "You are kind."}, {"type": "text", "text": "And brief."}],
        tools=[TOOL],
    )
    places = [
        prompt.index(text) for text in ("You are kind.\nAnd brief.", "Rain?", "Be brief.", "I look.", "Oslo", "Rome")
    ]
    assert places == sorted(places)
    assert prompt.index("rain") < prompt.index("sun") < prompt.index("Well?")
    assert "hm" not in prompt.replace("them", "")
    assert prompt.count("<|im_start|>user") >= 2


def test_a_marked_block_is_the_same_block() -> None:
    plain = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    marked = {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]}
    assert prompt_of(plain) == prompt_of(marked) == prompt_of(USER)


def test_the_billing_line_is_not_part_of_the_prompt() -> None:
    billing = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.330.565; cc_entrypoint=sdk-cli;"}
    rules = {"type": "text", "text": "You are kind."}
    assert prompt_of(system=[billing, rules]) == prompt_of(system=[rules])


def test_an_unfinished_answer_is_gone_on_with() -> None:
    prompt = prompt_of(USER, {"role": "assistant", "content": "The answer is ("})
    assert prompt.endswith("The answer is (")


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
def test_calls_that_must_come(choice: dict[str, Any]) -> None:
    api = Api(say(CALL))
    ask(api, tools=[TOOL], tool_choice={**choice, "disable_parallel_tool_use": True})
    assert api.asked.constraint is not None
    assert api.asked.constraint.opening is None


def test_calls_that_may_not_come() -> None:
    api = Api(say(CALL))
    answer = ask(api, tools=[TOOL], tool_choice={"type": "none"}).json()
    assert [block["type"] for block in answer["content"]] == ["text"]
    assert api.asked.constraint == Constraint(NO_CALLS)
    assert prompt_of(tools=[TOOL], tool_choice={"type": "none"}) == prompt_of(tools=[TOOL])


def test_tools_of_the_maker_are_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    prompt = prompt_of(tools=[{"type": "web_search_20250305", "name": "web_search"}, {**TOOL, "type": "custom"}])
    assert "weather" in prompt
    assert "web_search" not in prompt
    assert "web_search_20250305" in caplog.text


def test_a_form() -> None:
    api = Api(say('{"a": 1}'))
    ask(api, output_config={"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}})
    assert api.asked.constraint is not None


def test_the_session_is_in_the_user() -> None:
    api = Api()
    ask(api, metadata={"user_id": json.dumps({"device_id": "d", "session_id": "s1"})})
    assert api.asked.session == "/s1"
    for odd in ("user-7", "{", "[]", "{}", '{"session_id": 7}', "[" * 9999, "{" * 9999):
        assert ask(api, metadata={"user_id": odd}).status_code == 200
        assert api.asked.session is None


REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"max_tokens": None}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "nonsense"}]}]}, "nonsense"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 7}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "name": "f", "input": 7}]}]}, "input"),
    ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": {}}]}]}, "name"),
    ({"system": 7}, "system"),
    ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "other"}}, "weather"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
    ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
    ({"temperature": -1}, "temperature"),
    ({"compaction": {"type": "summarize"}}, "compaction"),
    ({"stop_sequences": ["x" * 300]}, "stop_sequences[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_use", "name": "f"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "container_upload"}]}]}, "container_upload"),
)


@pytest.mark.parametrize(("change", "named"), REFUSED)
def test_what_is_wrong_is_named(change: dict[str, Any], named: str) -> None:
    assert named in refusal(**change)


LONG, PATIENCE = 400.0, 300.0


@pytest.mark.parametrize("answer", ["Hello", CALL])
def test_a_watchdog_that_passes_over_pings_stays_calm(answer: str) -> None:
    """As Claude Code's: 300 seconds to the first byte, and between two events that are no pings."""
    api = Api(say(answer, before=LONG))
    body = {"messages": [USER], "max_tokens": 500, "stream": True, "tools": [TOOL]}
    sent = run(post(api.app, f"{PATH}?beta=true", json.dumps(body).encode()))
    lives = [0.0]
    text = ""
    for moment, message in sent:
        chunk = message.get("body", b"").decode()
        text += chunk
        if any(event["type"] != "ping" for event in (events_of(chunk) if chunk else ())):
            lives.append(moment)
    assert lives[-1] >= LONG
    assert max(after - before for before, after in pairwise(lives)) < PATIENCE / 10
    events = events_of(text)
    assert events[0]["type"] == "message_start"
    starts = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
    assert starts == (["text"] if answer == "Hello" else ["text", "tool_use"])
    stops = [event["index"] for event in events if event["type"] == "content_block_stop"]
    assert stops == list(range(len(starts)))


def test_no_text_is_opened_where_it_has_to_be_of_a_form_and_a_call_may_come() -> None:
    """Anthropic's own client reads every block of text as the form, the one that a life sign would open too."""
    api = Api(say(CALL, before=LONG))
    form = {"type": "json_schema", "schema": {"type": "object"}}
    body = {"messages": [USER], "max_tokens": 500, "stream": True, "tools": [TOOL], "output_config": {"format": form}}
    sent = run(post(api.app, PATH, json.dumps(body).encode()))
    events = events_of(b"".join(message.get("body", b"") for _, message in sent).decode())
    starts = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
    assert starts == ["tool_use"]
    assert [event["type"] for event in events][:3] == ["message_start", "ping", "ping"]


def test_a_failure_without_a_word_is_told() -> None:
    def prompt(**result: Any) -> str:
        call = {"type": "tool_use", "id": "c", "name": "weather", "input": {}}
        block = {"type": "tool_result", "tool_use_id": "c", **result}
        return prompt_of(USER, {"role": "assistant", "content": [call]}, {"role": "user", "content": [block]})

    assert "tool\nThe tool failed and said nothing.<" in prompt(is_error=True)
    assert prompt(is_error=True, content="boom") == prompt(content="boom")
    assert "failed" not in prompt()


@pytest.mark.parametrize("tool", [{"type": "web_search_20250305", "name": "web_search"}, {"type": "bash_20250124"}])
def test_tools_that_are_all_the_makers_are_refused(tool: Any) -> None:
    """Claude Code asks so for a search, and takes whatever comes for what was found."""
    response = Api().post(PATH, {"messages": [USER], "max_tokens": 5, "tools": [tool]})
    assert response.status_code == 400
    assert f"tools[0].type '{tool['type']}'" in response.json()["error"]["message"]


def test_two_turns_of_a_real_conversation_share_their_beginning() -> None:
    """The second request of a captured conversation goes on where the first one ended."""
    data = Path(__file__).parent / "data" / "anthropic"
    prompts = []
    for name, version in (("claude-code-1", "565"), ("claude-code-2", "ad9")):
        body = json.loads((data / f"{name}.json").read_text("utf-8"))["body"]
        body["system"][0]["text"] = f"x-anthropic-billing-header: cc_version=2.1.330.{version}; cc_entrypoint=sdk-cli;"
        api = Api(engine=ScriptedEngine(info=replace(INFO, max_model_len=100_000)))
        assert api.post(PATH, {**body, "model": ""}).status_code == 200
        prompts.append(api.asked.prompt_ids)
    first, second = prompts
    common = next((n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(first))
    assert common >= 0.99 * len(first)


@pytest.mark.parametrize("name", ["claude-code-1", "claude-code-2", "claude-code-2.1.197-2", "anthropic-sdk-2"])
def test_counting_agrees_with_asking(name: str) -> None:
    """For the very same body."""
    body = json.loads((Path(__file__).parent / "data" / "anthropic" / f"{name}.json").read_text("utf-8"))["body"]
    api = Api(engine=ScriptedEngine(info=replace(INFO, max_model_len=100_000)))
    body.update(model="", stream=False)
    usage = api.post(PATH, body).json()["usage"]
    counted = api.post(f"{PATH}/count_tokens?beta=true", body).json()
    assert counted == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}
    assert counted["input_tokens"] == len(api.asked.prompt_ids)


def test_counting_takes_the_body_of_a_message_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    body = {"messages": [USER], "max_tokens": 5, "stream": True, "temperature": 1, "metadata": {}}
    assert Api().post(f"{PATH}/count_tokens", body).status_code == 200
    assert caplog.text == ""


def test_settings_in_the_middle_say_nothing_to_the_model() -> None:
    settings = {"role": "system", "content": [], "output_config": {"effort": "low"}}
    reminder = {"role": "system", "content": "Be brief.", "clear_at": "next_user_message"}
    assert prompt_of(USER, settings) == prompt_of(USER)
    assert "Be brief." in prompt_of(USER, reminder, {"role": "assistant", "content": "x"}, USER)


def test_texts_that_stand_in_other_blocks_are_read() -> None:
    blocks = [
        {
            "type": "document",
            "title": "Title A",
            "source": {"type": "text", "media_type": "text/plain", "data": "Text A"},
        },
        {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "Text B"}]}},
        {
            "type": "search_result",
            "title": "Title C",
            "source": "here",
            "content": [{"type": "text", "text": "Text C"}],
        },
    ]
    prompt = prompt_of(
        {"role": "user", "content": blocks}, {"role": "user", "content": [{"type": "compaction", "content": "D"}]}
    )
    assert "Title A\nText A\nText B\nTitle C\nhere\nText C" in prompt
    assert "user\nD" in prompt


def test_blocks_that_say_nothing_to_this_model_leave_the_prompt_as_it_was() -> None:
    others = [
        {"type": "redacted_thinking", "data": "x"},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
    ]
    answer = {"role": "assistant", "content": [*others, {"type": "text", "text": "Well."}]}
    assert prompt_of(USER, answer, USER) == prompt_of(USER, {"role": "assistant", "content": "Well."}, USER)


def test_empty_parts_of_a_conversation_keep_their_places() -> None:
    result = {"type": "tool_result", "tool_use_id": "x"}
    prompt = prompt_of(
        {"role": "user", "content": None}, {"role": "assistant", "content": []}, {"role": "user", "content": [result]}
    )
    assert prompt.count("<|im_start|>") == 4
    assert "<|im_start|>tool\n<|im_end|>" in prompt
