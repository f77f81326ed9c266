"""POST /api/chat: conversations in, lines of JSON out."""

import re
import time
from itertools import pairwise
from typing import Any

import pytest

from engine.types import FinishReason, TokenOutput
from tests.support.api import WEATHER, Api, live, raw_exchange
from tests.support.fake_clock import post, run
from tests.support.ollama import CHAT, chat, lines_of, prompt_of
from tests.support.scripted_engine import TOKENIZER, fail_after, play, say

CALL = "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
CALL += "</function>\n</tool_call>"
ROME = {"name": "weather", "arguments": {"city": "Rome", "days": 3}}
MEASURES = {"total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count"}
MEASURES |= {"eval_duration"}


def calls_in(message: dict[str, Any]) -> list[dict[str, Any]]:
    return [{name: call["function"][name] for name in ("name", "arguments")} for call in message["tool_calls"]]


def test_a_whole_answer() -> None:
    answer = chat(Api(say("Hello")), model="tiny-qwen-coder").json()
    assert answer["model"] == "tiny-qwen-coder"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", answer["created_at"])
    assert answer["message"] == {"role": "assistant", "content": "Hello"}
    assert (answer["done"], answer["done_reason"]) == (True, "stop")
    assert (answer["prompt_eval_count"], answer["eval_count"]) == (21, 6)
    assert all(isinstance(answer[name], int) for name in MEASURES)
    assert min(answer["prompt_eval_duration"], answer["eval_duration"], answer["total_duration"]) > 0


def test_streaming_is_the_default() -> None:
    response = Api(say("Hello")).post(CHAT, {"messages": [{"role": "user", "content": "Hi"}]})
    assert response.headers["content-type"].startswith("application/x-ndjson")
    *chunks, last = lines_of(response.text)
    assert "".join(chunk["message"]["content"] for chunk in chunks) == "Hello"
    assert all(chunk.keys() == {"model", "created_at", "message", "done"} for chunk in chunks)
    assert not any(chunk["done"] for chunk in chunks)
    assert last["message"] == {"role": "assistant", "content": ""}  # some clients read no text in the last line
    assert (last["done"], last["done_reason"]) == (True, "stop")
    assert last.keys() >= MEASURES


@pytest.mark.parametrize("name", ["tiny-qwen-coder", "tiny-qwen-coder:latest", ""])
def test_names(name: str) -> None:
    assert chat(Api(), model=name).json()["model"] == (name or "tiny-qwen-coder")


def test_every_role_is_written_as_the_template_has_it() -> None:
    api = Api()
    call = {"function": {"name": "weather", "arguments": {"city": "Rome"}}}
    response = chat(
        api,
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi", "images": None},
        {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call], "images": []},
        {"role": "tool", "content": "sunny", "tool_name": "weather", "tool_call_id": "call_1"},
        tools=[WEATHER],
    )
    assert response.status_code == 200
    assert prompt_of(api) == (
        "<|im_start|>system\nTools: weather<|im_end|>\n<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[weather city=Rome]<|im_end|>\n"
        "<|im_start|>tool\nsunny<|im_end|>\n<|im_start|>assistant\n"
    )


def test_roles_as_others_write_them() -> None:
    api = Api()
    said = [
        {"role": "Developer", "content": "Be brief."},
        {"role": "USER", "content": "Hi"},
        {"role": "thinking", "content": "hm"},
        {"role": "Assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
    ]
    assert chat(api, *said).status_code == 200
    assert prompt_of(api) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    )
    for role in (7, "clown"):
        assert chat(api, {"role": role, "content": "Hi"}).status_code == 400


@pytest.mark.parametrize("arguments", ['{"city": "Rome"}', {"city": "Rome"}])
def test_past_arguments_may_be_json_text(arguments: Any) -> None:
    api = Api()
    chat(api, {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": arguments}}]})
    assert "[weather city=Rome]" in prompt_of(api)


def test_what_the_assistant_said_last_is_gone_on_with() -> None:
    api = Api()
    chat(api, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "He"})
    assert prompt_of(api).endswith("<|im_start|>assistant\nHe")
    chat(api, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""})
    assert prompt_of(api).endswith("<|im_start|>assistant\n<|im_end|>\n<|im_start|>assistant\n")


def test_a_call_in_one_piece() -> None:
    answer = chat(Api(say("Look. " + CALL)), tools=[WEATHER]).json()
    assert calls_in(answer["message"]) == [ROME]
    assert answer["message"]["content"].strip() == "Look."
    assert answer["done_reason"] == "stop"


def test_calls_in_a_stream_come_together_before_the_end() -> None:
    response = chat(Api(say(f"Look.\n{CALL}\n{CALL}")), tools=[WEATHER], stream=True)
    *chunks, calls, last = lines_of(response.text)
    assert not any("tool_calls" in chunk["message"] for chunk in [*chunks, last])
    assert calls_in(calls["message"]) == [ROME, ROME]
    assert [call["function"]["index"] for call in calls["message"]["tool_calls"]] == [0, 1]
    assert len({call["id"] for call in calls["message"]["tool_calls"]}) == 2
    assert (calls["done"], last["done"]) == (False, True)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("cut", [CALL.index("Rome") + 2, CALL.index("weather") + 8, CALL.index("3")])
def test_a_call_that_is_cut_off_is_none(cut: int, stream: bool) -> None:
    ids = TOKENIZER.encode(f"{CALL}\n{CALL[:cut]}", parse_special=True)
    script = play(TokenOutput(tuple(ids), finish_reason=FinishReason.LENGTH))
    *chunks, last = lines_of(chat(Api(script), tools=[WEATHER], stream=stream).text + "\n" * (not stream))
    assert last["done_reason"] == "length"
    assert [calls_in(c["message"]) for c in [*chunks, last] if "tool_calls" in c["message"]] == [[ROME]]


@pytest.mark.parametrize("stop", ["stop", ["stop", "halt"]])
def test_options(stop: Any) -> None:
    api = Api()
    options = {
        "num_predict": 5,
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.9,
        "min_p": 0.1,
        "seed": 3,
        "stop": stop,
        "repeat_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "num_ctx": 10**6,
        "num_keep": 4,
        "num_gpu": 99,
        "mirostat": 0,
        "tfs_z": 1.0,
        "typical_p": None,
    }
    assert chat(api, options=options).status_code == 200
    sampling = api.asked.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_k, sampling.top_p) == (5, 0.5, 7, 0.9)
    assert (sampling.min_p, sampling.seed, sampling.repetition_penalty) == (0.1, 3, 1.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.2, 0.3)


def test_stop_strings_end_the_text() -> None:
    answer = chat(Api(say("one two three")), options={"stop": [" two"]}).json()
    assert (answer["message"]["content"], answer["done_reason"]) == ("one", "stop")


@pytest.mark.parametrize("num_predict", [-1, -2, 0, None])
def test_answers_without_a_limit(num_predict: int | None) -> None:
    api = Api()
    chat(api, options={"num_predict": num_predict})
    assert api.asked.sampling.max_tokens == 4096 - 21


def test_an_answer_that_is_too_long() -> None:
    answer = chat(Api(say("Hello")), options={"num_predict": 2}).json()
    assert (answer["message"]["content"], answer["done_reason"], answer["eval_count"]) == ("He", "length", 2)


def test_values_that_ask_for_nothing() -> None:
    api = Api()
    chat(api, options={"seed": -1, "top_k": -1, "repeat_penalty": 1.5, "repeat_last_n": 0})
    assert (api.asked.sampling.seed, api.asked.sampling.top_k) == (None, 0)
    assert api.asked.sampling.repetition_penalty == 1.0
    chat(api, options={"repeat_penalty": 1.5, "repeat_last_n": 64})
    assert api.asked.sampling.repetition_penalty == 1.5


@pytest.mark.parametrize("form", ["json", {"type": "object"}])
def test_answers_of_a_form(form: Any) -> None:
    api = Api()
    assert chat(api, format=form).status_code == 200
    assert api.asked.constraint is not None
    assert api.asked.constraint.opening is None


@pytest.mark.parametrize("form", ["", None])
def test_answers_of_no_form(form: Any) -> None:
    api = Api()
    assert chat(api, format=form).status_code == 200
    assert api.asked.constraint is None


def test_logprobs() -> None:
    answer = chat(Api(say("Hé")), logprobs=True, top_logprobs=2).json()
    assert answer["logprobs"][0]["token"] == "H"
    assert answer["logprobs"][0]["bytes"] == [72]
    assert answer["logprobs"][0]["logprob"] == -0.25
    assert len(answer["logprobs"][0]["top_logprobs"]) == 2
    chunks = lines_of(chat(Api(say("Hé")), logprobs=True, stream=True).text)
    assert sum(len(chunk.get("logprobs", [])) for chunk in chunks) == 3
    assert "logprobs" not in chat(Api()).json()


@pytest.mark.parametrize(
    ("keep_alive", "reason"),
    [
        *((value, "load") for value in (None, -1, "5m", 300, True, "", "1h0m")),
        *((value, "unload") for value in (0, 0.0, "0", "0s", "0m", "0.0h")),
    ],
)
@pytest.mark.parametrize("path", ["chat", "generate"])
def test_loading_and_unloading_do_nothing(path: str, keep_alive: Any, reason: str) -> None:
    api = Api()
    answer = api.post(f"/api/{path}", {"model": "tiny-qwen-coder", "keep_alive": keep_alive}).json()
    assert (answer["done"], answer["done_reason"]) == (True, reason)
    assert answer["model"] == "tiny-qwen-coder"
    assert answer.get("message", {}).get("content", answer.get("response")) == ""
    assert api.engine.requests == []


def test_a_long_time_to_keep_the_model_is_read_at_once() -> None:
    api, begun = Api(), time.monotonic()
    body = {"model": "tiny-qwen-coder", "messages": [], "keep_alive": "0" * 200_000 + "!"}
    assert api.post("/api/chat", body).json()["done_reason"] == "load"
    assert time.monotonic() - begun < 5  # the square of the length took minutes


def test_what_is_ignored_changes_nothing() -> None:
    api = Api()
    assert chat(api, think=True, keep_alive="5m", truncate=False, shift=True, options=None, tools=[]).status_code == 200
    assert chat(api, think="high", keep_alive=0).status_code == 200


def test_a_life_sign_is_an_empty_piece_of_the_answer() -> None:
    body = b'{"messages": [{"role": "user", "content": "Hi"}]}'
    sent = run(post(Api(say("Hello", before=400.0)).app, CHAT, body))
    moments = [moment for moment, _ in sent]
    assert max(after - before for before, after in pairwise(moments)) <= 10.0
    chunks = lines_of(b"".join(message.get("body", b"") for _, message in sent).decode())
    silent = [chunk for chunk in chunks if not chunk["done"] and not chunk["message"]["content"]]
    assert len(silent) >= 39
    assert silent[0].keys() == chunks[-2].keys()


def test_a_failure_in_a_stream_is_a_line_and_a_cut() -> None:
    with live(Api(fail_after("Hel"))) as url:
        received = raw_exchange(url, {"messages": [{"role": "user", "content": "Hi"}]}, CHAT)
    assert b'{"error":"the device failed"}\n' in received
    assert not received.endswith(b"0\r\n\r\n")


def test_a_conversation_goes_on_from_the_tokens_of_its_answer() -> None:
    """What comes back as an object means the call that was made."""
    api = Api(say(CALL))
    first = chat(api, tools=[WEATHER]).json()
    prompt, generated = api.asked.prompt_ids, TOKENIZER.encode(CALL, parse_special=True)
    said = {"role": "user", "content": "Hi"}, first["message"], {"role": "tool", "content": "sunny"}
    assert chat(api, *said, tools=[WEATHER]).status_code == 200
    assert api.asked.prompt_ids[: len(prompt) + len(generated)] == (*prompt, *generated)
