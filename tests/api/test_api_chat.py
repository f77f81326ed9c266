"""POST /v1/chat/completions: the answer's shape, streamed and whole."""

from dataclasses import replace
from typing import Any

import pytest

from engine.types import FinishReason, TokenOutput
from server.chat.template import ChatTemplate
from tests.support.api import WEATHER, Api, chunks_of
from tests.support.scripted_engine import TOKENIZER, Script, play, say
from tests.support.tiny_text_model import tiny_model

CALL = (
    "<tool_call>\n<function=weather>\n<parameter=city>\n{}\n</parameter>\n"
    "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"
)


def deltas(response: Any, choice: int = 0) -> list[dict[str, Any]]:
    chunks = chunks_of(response.text)
    return [c["choices"][0]["delta"] for c in chunks if c["choices"] and c["choices"][0]["index"] == choice]


def text_of(response: Any, choice: int = 0) -> str:
    return "".join(delta.get("content") or "" for delta in deltas(response, choice))


def finish_of(response: Any) -> list[str]:
    choices = [choice for chunk in chunks_of(response.text) for choice in chunk["choices"]]
    return [choice["finish_reason"] for choice in choices if choice["finish_reason"]]


def test_whole_answer() -> None:
    response = Api(say("Hello wörld", cached=4)).chat()
    body = response.json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "tiny-qwen-coder"
    assert body["id"] == f"chatcmpl-{response.headers['x-request-id']}"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello wörld", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
            "stop_reason": None,
        }
    ]
    assert body["usage"] == {
        "prompt_tokens": 21,
        "completion_tokens": 13,
        "total_tokens": 34,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


def test_the_prompt_is_the_rendered_conversation() -> None:
    api = Api()
    api.chat(messages=[{"role": "developer", "content": "Be brief"}, {"role": "user", "content": None}])
    prompt = TOKENIZER.decode(api.asked.prompt_ids, skip_special_tokens=False)
    assert prompt == "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"


def test_stream() -> None:
    response = Api(say("Hello wörld")).chat(stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert deltas(response)[0] == {"role": "assistant", "content": ""}
    assert text_of(response) == "Hello wörld"
    assert finish_of(response) == ["stop"]
    chunks = chunks_of(response.text)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["id"] for chunk in chunks} == {f"chatcmpl-{response.headers['x-request-id']}"}
    assert all("usage" not in chunk for chunk in chunks)


def test_every_event_is_one_line_whatever_a_reader_takes_for_a_line() -> None:
    text = "a\u2028b\u2029c\x85d"
    response = Api(say(text)).chat(stream=True)
    assert all(line.startswith("data: ") for line in response.text.splitlines() if line)
    assert text_of(response) == text


def test_stream_with_usage() -> None:
    response = Api(say("Hey")).chat(stream=True, stream_options={"include_usage": True})
    last = chunks_of(response.text)[-1]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 4
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


def test_stream_with_usage_all_along() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = chunks_of(Api(say("Hey")).chat(stream=True, stream_options=options).text)
    assert all(chunk["usage"]["prompt_tokens"] == 21 for chunk in chunks)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks][-1] == 4


def test_length() -> None:
    body = Api(say("Hello")).chat(max_completion_tokens=2, max_tokens=4).json()
    assert body["choices"][0]["message"]["content"] == "He"
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("per_step", [1, 3, 100])
def test_stop_string(per_step: int) -> None:
    choice = Api(say("one two three", per_step=per_step)).chat(stop="two").json()
    assert choice["choices"][0]["message"]["content"] == "one "
    assert choice["choices"][0]["finish_reason"] == "stop"
    assert choice["choices"][0]["stop_reason"] == "two"
    assert choice["usage"]["completion_tokens"] == len("one two")


def test_a_matched_stop_string_ends_the_sequence_in_the_engine() -> None:
    api = Api(say("one two three"))
    api.chat(stop=["two"])
    assert api.engine.running == []


def test_stop_string_kept_on_request() -> None:
    choice = Api(say("one two three")).chat(stop=["two"], include_stop_str_in_output=True).json()["choices"][0]
    assert choice["message"]["content"] == "one two"


def test_stop_strings_wait_for_min_tokens() -> None:
    choice = Api(say("two one two")).chat(stop=["two"], min_tokens=3).json()["choices"][0]
    assert choice["message"]["content"] == "two one "


def test_stop_token() -> None:
    stop = TOKENIZER.encode("w", parse_special=False)
    choice = Api(say("one two")).chat(stop_token_ids=stop).json()["choices"][0]
    assert choice["message"]["content"] == "one t"
    assert choice["stop_reason"] == stop[0]


def test_a_stop_that_is_a_control_token() -> None:
    choice = Api(say("one<|fim_prefix|>two")).chat(stop=["<|fim_prefix|>"]).json()["choices"][0]
    assert choice["message"]["content"] == "one"
    assert choice["stop_reason"] == "<|fim_prefix|>"


@pytest.mark.parametrize("stream", [False, True])
def test_n_choices(stream: bool) -> None:
    api = Api(say("Hi"))
    response = api.chat(n=3, seed=7, stream=stream, **({"stream_options": {"include_usage": True}} if stream else {}))
    assert [(request.choice, request.sampling.seed) for request in api.engine.requests] == [(0, 7), (1, 7), (2, 7)]
    assert len({request.request_id for request in api.engine.requests}) == 1
    usage = chunks_of(response.text)[-1]["usage"] if stream else response.json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (21, 9)
    if stream:
        assert [text_of(response, choice) for choice in range(3)] == ["Hi"] * 3
        assert finish_of(response) == ["stop"] * 3
    else:
        assert [choice["index"] for choice in response.json()["choices"]] == [0, 1, 2]


def test_logprobs() -> None:
    content = Api(say("hé")).chat(logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]["content"]
    assert [entry["bytes"] for entry in content] == [[104], [0xC3], [0xA9]]
    assert content[0]["token"] == "h"
    assert content[0]["logprob"] == -0.25
    assert [top["logprob"] for top in content[0]["top_logprobs"]] == [-0.25, -1.25]
    assert bytes(byte for entry in content for byte in entry["bytes"]).decode() == "hé"


def test_logprobs_without_alternatives() -> None:
    content = Api(say("h")).chat(logprobs=True).json()["choices"][0]["logprobs"]["content"]
    assert content == [{"token": "h", "bytes": [104], "logprob": -0.25, "top_logprobs": []}]


def test_streamed_logprobs_join_to_the_text() -> None:
    chunks = chunks_of(Api(say("a wörld of stops")).chat(stream=True, logprobs=True, stop=["stops"]).text)
    raw = b""
    for chunk in chunks:
        choice = chunk["choices"][0]
        raw += bytes(byte for entry in (choice["logprobs"] or {"content": []})["content"] for byte in entry["bytes"])
        if choice["delta"].get("content"):
            assert raw.decode().endswith(choice["delta"]["content"])
    assert raw.decode() == "a wörld of "


@pytest.mark.parametrize("per_step", [1, 7, 1000])
def test_tool_call(per_step: int) -> None:
    script = say("Let me see.\n\n" + CALL.format("Rome"), per_step=per_step)
    choice = Api(script).chat(tools=[WEATHER]).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"].strip() == "Let me see."
    [call] = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["id"].startswith("call_")
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Rome", "days": 3}'}


def test_tool_calls_without_text_have_null_content() -> None:
    message = Api(say(CALL.format("Rome"))).chat(tools=[WEATHER]).json()["choices"][0]["message"]
    assert message["content"] is None


def test_streamed_tool_calls() -> None:
    script = say(CALL.format("Rome") + "\n" + CALL.format("Oslo"))
    response = Api(script).chat(tools=[WEATHER], stream=True, parallel_tool_calls=True)
    calls = [call for delta in deltas(response) for call in delta.get("tool_calls", [])]
    assert finish_of(response) == ["tool_calls"]
    for index, city in enumerate(("Rome", "Oslo")):
        mine = [call for call in calls if call["index"] == index]
        assert mine[0]["function"]["name"] == "weather"
        assert mine[0]["type"] == "function"
        assert all("id" not in call and "name" not in call["function"] for call in mine[1:])
        arguments = "".join(call["function"]["arguments"] for call in mine)
        assert arguments == f'{{"city": "{city}", "days": 3}}'
    assert len({call["id"] for call in calls if "id" in call}) == 2


def test_one_call_only_when_the_client_wants_no_parallel_ones() -> None:
    api = Api(say(CALL.format("Rome") + "\n" + CALL.format("Oslo")))
    choice = api.chat(tools=[WEATHER], parallel_tool_calls=False).json()["choices"][0]
    assert len(choice["message"]["tool_calls"]) == 1
    assert choice["finish_reason"] == "tool_calls"
    assert api.engine.running == []


def test_a_call_cut_by_the_limit_finishes_as_length() -> None:
    choice = Api(say(CALL.format("Rome"))).chat(tools=[WEATHER], max_tokens=50).json()["choices"][0]
    assert choice["finish_reason"] == "length"


def repeating(text: str) -> Script:
    ids = TOKENIZER.encode(text, parse_special=True)
    return play(*(TokenOutput((i,)) for i in ids[:-1]), TokenOutput((ids[-1],), finish_reason=FinishReason.REPETITION))


def test_an_answer_that_repeats_itself_says_so() -> None:
    api = Api(repeating("la la la la"))
    body = api.chat(repetition_detection=True).json()
    assert body["choices"][0]["message"]["content"] == "la la la la"
    assert body["choices"][0]["finish_reason"] == "repetition"
    assert body["usage"]["completion_tokens"] == len("la la la la")
    response = api.chat(repetition_detection=True, stream=True)
    assert (text_of(response), finish_of(response)) == ("la la la la", ["repetition"])
    assert api.complete(repetition_detection=True).json()["choices"][0]["finish_reason"] == "repetition"


@pytest.mark.parametrize(
    "text", [CALL.format("Rome Rome Rome")[:75], CALL.format("Rome") + "\n" + CALL.format("Oslo")[:60]]
)
def test_a_call_in_an_answer_that_repeats_itself_is_not_said_to_be_complete(text: str) -> None:
    choice = Api(repeating(text)).chat(tools=[WEATHER], repetition_detection=True).json()["choices"][0]
    assert choice["finish_reason"] == "repetition"
    assert not choice["message"]["tool_calls"][-1]["function"]["arguments"].endswith("}")


def test_a_call_cut_by_a_stop_string_is_no_finished_call() -> None:
    choice = Api(say(CALL.format("Rome"))).chat(tools=[WEATHER], stop=["days"]).json()["choices"][0]
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("more", [{}, {"tools": []}, {"tools": [WEATHER], "tool_choice": "none"}])
def test_without_tools_on_offer_markup_stays_text(more: dict[str, Any]) -> None:
    choice = Api(say(CALL.format("Rome"))).chat(**more).json()["choices"][0]
    assert choice["message"]["content"] == CALL.format("Rome")
    assert choice["finish_reason"] == "stop"


def test_null_members_of_a_function_are_absent() -> None:
    model = tiny_model()
    template = ChatTemplate("{{ tools | tojson }}")
    api = Api(model=replace(model, template=template))
    api.chat(tools=[{"type": "function", "function": {**WEATHER["function"], "description": None, "strict": None}}])
    assert "null" not in TOKENIZER.decode(api.asked.prompt_ids)


def test_with_tool_choice_none_the_prompt_stays_as_it_was() -> None:
    api = Api()
    for choice in ("auto", "none"):
        api.chat(tools=[WEATHER], tool_choice=choice)
    first, second = api.engine.requests
    assert second.prompt_ids == first.prompt_ids
    assert "weather" in TOKENIZER.decode(second.prompt_ids)


def test_continue_final_message() -> None:
    api = Api()
    messages = [{"role": "user", "content": "Count"}, {"role": "assistant", "content": "one, two,"}]
    assert api.chat(messages=messages, continue_final_message=True, add_generation_prompt=False).status_code == 200
    assert TOKENIZER.decode(api.asked.prompt_ids).endswith("one, two,")


def test_no_generation_prompt() -> None:
    api = Api()
    api.chat(add_generation_prompt=False)
    assert TOKENIZER.decode(api.asked.prompt_ids, skip_special_tokens=False).endswith("Hi<|im_end|>\n")


def test_a_past_call_is_rendered_from_its_parsed_arguments() -> None:
    api = Api()
    texts = []
    for arguments in ('{"city":"Rome"}', '{"city": "Rome"}', {"city": "Rome"}):
        call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
        messages = [
            {"role": "user", "content": [{"type": "text", "text": "Wea"}, {"type": "text", "text": "ther?"}]},
            {"role": "assistant", "tool_calls": [call], "provider_specific_fields": {"x": 1}},
            {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": [{"type": "text", "text": "sunny"}]},
        ]
        assert api.chat(messages=messages, tools=[WEATHER]).status_code == 200
        texts.append(TOKENIZER.decode(api.asked.prompt_ids))
    assert "Weather?" in texts[0]
    assert "[weather city=Rome]" in texts[0]
    assert "tool\nsunny" in texts[0]
    assert len(set(texts)) == 1


@pytest.mark.parametrize(
    ("arguments", "rendered"),
    [("", "[weather]"), ("{broken", "[weather arguments={broken]"), ("[1]", "[weather arguments=[1]]")],
)
def test_broken_arguments_of_a_past_call_are_kept(arguments: str, rendered: str) -> None:
    api = Api()
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert api.chat(messages=messages).status_code == 200
    assert rendered in TOKENIZER.decode(api.asked.prompt_ids)
