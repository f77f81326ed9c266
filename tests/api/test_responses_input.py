"""POST /v1/responses: from items to the prompt."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Api
from tests.support.responses import CALL, PATH, WEATHER, answered, ask, last_prompt, prompt_of, refusal
from tests.support.scripted_engine import INFO, TOKENIZER, ScriptedEngine, say


def message(role: str, *texts: str, kind: str = "input_text") -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text} for text in texts]}


def call(**more: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Oslo"}', **more}


def result(output: Any = "rain", kind: str = "function_call_output", **more: Any) -> dict[str, Any]:
    return {"type": kind, "call_id": "c1", "output": output, **more}


def test_text_is_a_users_message() -> None:
    asked = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert prompt_of("Hi") == asked
    assert prompt_of([message("user", "Hi")]) == asked
    assert prompt_of([message("user", "H", "i")]) == asked
    assert prompt_of([{"role": "user", "content": "Hi"}]) == asked
    assert prompt_of([{"role": "user", "content": ["Hi"], "type": None, "id": "msg_1", "status": "completed"}]) == asked


def test_an_empty_text_is_served() -> None:
    """Codex asks so to have a model loaded."""
    assert answered(Api(), "", max_output_tokens=1)["status"] == "incomplete"


def test_what_stands_before_all_is_one_system_message() -> None:
    prompt = prompt_of(
        [message("developer", "B", "C"), message("system", "D"), message("user", "Hi"), message("developer", "E")],
        instructions="A",
    )
    assert prompt == (
        "<|im_start|>system\nA\n\nBC\n\nD<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>system\nE<|im_end|>\n<|im_start|>assistant\n"
    )


def test_instructions_alone_are_a_system_message() -> None:
    assert prompt_of(instructions="A").startswith("<|im_start|>system\nA<|im_end|>\n<|im_start|>user\nHi")
    assert prompt_of(instructions="") == prompt_of()


def test_the_items_of_one_answer_are_one_message() -> None:
    prompt = prompt_of(
        [
            message("user", "Rain?"),
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
            message("assistant", "I look.", kind="output_text"),
            call(),
            {"type": "reasoning", "id": "rs_2", "summary": []},
            call(call_id="c2", arguments='{"city": "Rome", "days": 2}'),
            result(),
            result([{"type": "input_text", "text": "s"}, {"type": "text", "text": "un"}], call_id="c2"),
            message("user", "So?"),
        ]
    )
    assert prompt == (
        "<|im_start|>user\nRain?<|im_end|>\n"
        "<|im_start|>assistant\nI look.[weather city=Oslo][weather city=Rome days=2]<|im_end|>\n"
        "<|im_start|>tool\nrain<|im_end|>\n<|im_start|>tool\nsun<|im_end|>\n"
        "<|im_start|>user\nSo?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_past_calls_have_the_names_that_the_model_knows() -> None:
    assert "[agents__close city=Oslo]" in prompt_of([call(name="close", namespace="agents"), result()])
    assert "[mcp__x__close city=Oslo]" in prompt_of([call(name="close", namespace="mcp__x__"), result()])
    custom = {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": "+a"}
    prompt = prompt_of([custom, result("done", "custom_tool_call_output")])
    assert "[patch input=+a]" in prompt
    assert "<|im_start|>tool\ndone" in prompt


def test_broken_arguments_are_kept() -> None:
    assert '[weather arguments={"city": "Os]' in prompt_of([call(arguments='{"city": "Os'), result()])
    assert "[weather]" in prompt_of([call(arguments=""), result(None)])


@pytest.mark.parametrize("kind", ["web_search_call", "local_shell_call", "mcp_call", "compaction", "tool_search_call"])
def test_items_of_other_models_are_left_out(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    api = Api()
    for _ in range(2):
        answered(api, [{"type": kind, "id": "x_1", "status": "completed"}, message("user", "Hi")])
    assert last_prompt(api) == prompt_of("Hi")
    assert caplog.text.count(kind) == 1


REFUSED: tuple[tuple[Any, str], ...] = (
    (None, "input"),
    (7, "input"),
    ([], "input"),
    ([{"type": "reasoning", "summary": []}], "input"),
    (["Hi"], "input[0]"),
    ([None], "input[0]"),
    ([{}], "input[0].type"),
    ([{"type": 7}], "input[0].type"),
    ([{"type": "telepathy"}], "input[0].type"),
    ([{"type": "message", "content": "Hi"}], "input[0].role"),
    ([{"role": "tool", "content": "Hi"}], "input[0].role"),
    ([{"role": [], "content": "Hi"}], "input[0].role"),
    ([{"role": "user", "content": 7}], "input[0].content"),
    ([{"role": "user", "content": [7]}], "input[0].content[0].type"),
    ([{"role": "user", "content": [{"type": "input_text", "text": 7}]}], "input[0].content[0].text"),
    ([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}], "input[0].content[0].type"),
    ([{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}], "input[0].content[0].type"),
    ([{"role": "user", "content": [{"type": "input_audio"}]}], "input[0].content[0].type"),
    ([{"role": "user", "content": [{"type": []}]}], "input[0].content[0].type"),
    ([call(name="")], "input[0].name"),
    ([call(name=7)], "input[0].name"),
    ([call(call_id=7)], "input[0].call_id"),
    ([call(namespace=7)], "input[0].namespace"),
    ([call(arguments=7)], "input[0].arguments"),
    ([call(), result(7)], "input[1].output"),
    ([call(), result([{"type": "computer_screenshot"}])], "input[1].output[0].type"),
    ([{"type": "custom_tool_call", "call_id": "c", "name": "f", "input": {}}], "input[0].input"),
    ([{"type": "item_reference", "id": "msg_1"}], "input[0].id"),
    ([{"id": "msg_1"}], "input[0].id"),
    ([{"type": "item_reference", "id": 7}], "input[0].id"),
)


@pytest.mark.parametrize(("given", "param"), REFUSED)
def test_what_is_wrong_is_named(given: Any, param: str) -> None:
    error = refusal(given)
    assert error["param"] == param
    assert param.split(".")[0].split("[")[0] in error["message"]


def test_what_is_no_text_is_unsupported_media() -> None:
    error = refusal([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}])
    assert error["code"] == "unsupported_media"
    assert "input_image" in error["message"]


def test_an_overflow_is_told_before_the_stream() -> None:
    error = refusal("x" * 5000, stream=True)
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "input"
    assert "maximum context length is 4096 tokens" in error["message"]
    assert (error["n_ctx"], error["n_prompt_tokens"] > 5000) == (4096, True)


def test_the_input_is_counted() -> None:
    body = {"input": [message("user", "Rain?"), call(), result()], "instructions": "A", "tools": [WEATHER]}
    for path in (f"{PATH}/input_tokens", "/responses/input_tokens"):
        counted = Api().post(path, body).json()
        assert counted == {"object": "response.input_tokens", "input_tokens": counted["input_tokens"]}
        api = Api()
        assert counted["input_tokens"] == answered(api, **{"given": body.pop("input"), **body})["usage"]["input_tokens"]
        body["input"] = [message("user", "Rain?"), call(), result()]
    assert Api().post(f"{PATH}/input_tokens", {}).json()["error"]["param"] == "input"


def test_an_answer_that_comes_back_is_the_tokens_that_were_generated() -> None:
    """As Codex sends it: every item by itself, the arguments as they were."""
    api = Api(say(f"  I look.\n{CALL}"))
    first = answered(api, [message("user", "Rain?")], store=False, tools=[WEATHER])
    generated = TOKENIZER.encode(f"  I look.\n{CALL}", parse_special=True)
    read = [*api.asked.prompt_ids, *generated]
    text, asked = first["output"]
    result_item = {"type": "function_call_output", "call_id": asked["call_id"], "output": "rain"}
    answered(api, [message("user", "Rain?"), text, asked, result_item], store=False, tools=[WEATHER])
    assert list(api.asked.prompt_ids[: len(read)]) == read


def test_two_turns_of_codex_share_their_beginning() -> None:
    data = Path(__file__).parent / "data" / "responses"
    prompts = []
    for name in ("codex-1", "codex-2"):
        body = json.loads((data / f"{name}.json").read_text("utf-8"))["body"]
        api = Api(engine=ScriptedEngine(info=replace(INFO, max_model_len=100_000)))
        assert api.post(PATH, {**body, "model": ""}).status_code == 200
        prompts.append(api.asked.prompt_ids)
    first, second = prompts
    end = len(first) - len("\n") - len("assistant") - 1  # where the answer begins
    assert second[:end] == first[:end]


def test_the_session_is_the_cache_key() -> None:
    api = Api()
    answered(api, prompt_cache_key="thread-1")
    assert api.asked.session == "/thread-1"
    api.request("POST", PATH, json={"input": "Hi"}, headers={"session-id": "s2"})
    assert api.asked.session == "/s2"


def test_without_v1_too() -> None:
    assert Api().post("/responses", {"input": "Hi"}).status_code == 200
    assert ask(Api(), "Hi").status_code == 200
