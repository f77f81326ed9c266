"""How failures look to clients: status, envelope, headers, wording."""

import re
import time
from dataclasses import replace
from typing import Any

import pytest

from engine.errors import ExecutorError, Overloaded
from tests.support.api import CHAT, COMPLETIONS, Api
from tests.support.scripted_engine import INFO, ScriptedEngine, fail_after, play

# what agents look for to tell an overflow, which they answer by compacting, from other failures
OVERFLOW_PATTERNS = {
    "litellm": r"this model's maximum context length is",
    "openhands": r"please reduce the length of",
    "cline": r"(?=.*context.{0,10}(length|window|limit))(?=.*maximum.context)(?!.*rate.?limit)(?!.*too many requests)",
    "roo": r"context (length|window)|maximum context|tokens? exceed",
    "qwen-code": r"maximum context length is (\d+) tokens.*(?:resulted in|requested|used) (\d+) tokens",
    "opencode": r"maximum context length is \d+ tokens",
    "opencode-messages": r"reduce the length of the messages",
}


def error_of(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    return error


@pytest.mark.parametrize("stream", [False, True])
def test_context_overflow(stream: bool) -> None:
    response = Api().chat(messages=[{"role": "user", "content": "x" * 5000}], stream=stream)
    error = error_of(response, 400)
    assert error == {
        "message": "This model's maximum context length is 4096 tokens. However, your messages resulted in 5019 tokens."
        " Please reduce the length of the messages.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
        "n_prompt_tokens": 5019,
        "n_ctx": 4096,
    }


@pytest.mark.parametrize("client", OVERFLOW_PATTERNS)
def test_every_agent_understands_an_overflow(client: str) -> None:
    engine = ScriptedEngine(info=replace(INFO, max_model_len=1000))
    message = error_of(Api(engine=engine).chat(messages=[{"role": "user", "content": "x" * 5000}]), 400)["message"]
    found = re.search(OVERFLOW_PATTERNS[client], message, re.IGNORECASE | re.DOTALL)
    assert found
    if client == "qwen-code":
        assert found.groups() == ("1000", "5019")


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_prompt_so_long_that_a_thread_encodes_it(path: str) -> None:
    text = "x" * 100_000
    body = {"messages": [{"role": "user", "content": text}]} if path == CHAT else {"prompt": text}
    assert error_of(Api().post(path, body), 400)["n_prompt_tokens"] >= 100_000


def test_overflow_of_a_completion_names_the_prompt() -> None:
    error = error_of(Api().complete(prompt="x" * 5000), 400)
    assert error["param"] == "prompt"
    assert error["code"] == "context_length_exceeded"


@pytest.mark.parametrize("wait", [0.2, 2.0, 2.1, 40.0])
def test_overload(wait: float) -> None:
    engine = ScriptedEngine(refusal=Overloaded("7 requests wait already", "max_num_queued_reqs", wait))
    response = Api(engine=engine).chat(stream=True)
    error = error_of(response, 503)
    assert error["message"] == "7 requests wait already."
    assert error["code"] == "max_num_queued_reqs"
    assert int(response.headers["retry-after"]) >= max(1, wait)
    assert int(response.headers["retry-after"]) < wait + 1


def test_the_last_choice_refused_takes_the_others_with_it() -> None:
    engine = ScriptedEngine()
    submit = engine.submit

    def full_after_two(request: Any) -> Any:
        if len(engine.requests) == 2:
            raise Overloaded("the line is full", "max_num_queued_reqs", 1)
        return submit(request)

    engine.submit = full_after_two  # type: ignore[method-assign]
    error_of(Api(engine=engine).chat(n=3), 503)
    assert engine.running == []


def test_unknown_model() -> None:
    error = error_of(Api().chat(model="gpt-4"), 404)
    assert error["code"] == "model_not_found"
    assert error["param"] == "model"
    assert "gpt-4" in error["message"]
    assert "tiny-qwen-coder" in error["message"]


@pytest.mark.parametrize("model", ["", None, "tiny-qwen-coder"])
def test_known_model(model: str | None) -> None:
    assert Api().chat(model=model).status_code == 200


def test_unknown_route() -> None:
    assert error_of(Api().get("/v1/nothing"), 404)["code"] == "route_not_found"


def test_wrong_method() -> None:
    response = Api().get(CHAT)
    assert error_of(response, 405)["code"] == "method_not_allowed"
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"messages": [}', "line 1, column 15 (character 14)"),
        (b"", "line 1, column 1"),
        (b'{"a": 1', "character 7"),
        (b"[1]", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": "\xff"}', "UTF-8 at byte 7"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a": ' + b"[" * 200_000, "nested too deeply"),
        (b'{"a": ' + b"[" * 512 + b"]" * 512 + b"}", "deeper than 512"),
        (b'{"a": [1e999]}', "1e999"),
    ],
)
def test_malformed_json(content: bytes, says: str) -> None:
    response = Api().request("POST", CHAT, content=content, headers={"content-type": "application/json"})
    error = error_of(response, 400)
    assert error["code"] == "invalid_json"
    assert says in error["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": [1] * 200_000}, "messages[0]"),
        (CHAT, {"messages": [{"role": "user"}], "allowed_token_ids": ["x"] * 200_000}, "allowed_token_ids[0]"),
        (CHAT, {"messages": [{"role": "user"}], "logit_bias": {f"x{n}": 1 for n in range(100_000)}}, "logit_bias"),
        ("/detokenize", {"tokens": [-1] * 200_000}, "tokens[0]"),
        ("/v1/messages", {"max_tokens": 5, "messages": [1] * 200_000}, "messages[0]"),
        ("/v1/responses", {"input": [{"type": "reasoning"}] * 100_000}, "input"),
        ("/v1/responses", {"input": "x", "metadata": {f"x{n}": 1 for n in range(100_000)}}, "metadata"),
    ],
)
def test_much_that_is_wrong_takes_no_longer(path: str, body: Any, param: str) -> None:
    """A sentence on each of them took seconds, and gigabytes."""
    begun = time.monotonic()
    response = Api().post(path, body)
    assert response.status_code == 400
    assert time.monotonic() - begun < 1.5
    assert param in response.text


def test_a_body_that_is_packed() -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    error = error_of(Api().request("POST", CHAT, content=b"\x1f\x8b", headers=headers), 415)
    assert "'gzip'" in error["message"]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/tiny-qwen-coder", "/api/v0/models", "/api/tags"])
def test_what_can_be_fetched_can_be_looked_for(path: str) -> None:
    response = Api().request("HEAD", path)
    assert response.status_code == 200


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded"])
def test_content_type(media_type: str) -> None:
    error = error_of(Api().request("POST", CHAT, content=b"{}", headers={"content-type": media_type}), 415)
    assert "application/json" in error["message"]
    assert media_type in error["message"]


@pytest.mark.parametrize(
    ("headers", "status"), [({}, 200), ({"origin": "https://x.org"}, 415), ({"origin": "null"}, 415)]
)
def test_no_content_type_is_for_clients_that_are_no_web_pages(headers: dict[str, str], status: int) -> None:
    content = b'{"messages": [{"role": "user", "content": "x"}]}'
    assert Api().request("POST", CHAT, content=content, headers=headers).status_code == status


def test_a_charset_is_no_matter() -> None:
    headers = {"content-type": "application/json; charset=utf-8"}
    content = b'{"messages": [{"role": "user", "content": "x"}]}'
    assert Api().request("POST", CHAT, content=content, headers=headers).status_code == 200


def test_too_large_a_body() -> None:
    error = error_of(Api(max_body_size=1000).chat(user="x" * 2000), 413)
    assert "1000 bytes" in error["message"]


def test_too_large_a_body_of_unknown_length() -> None:
    async def body() -> Any:
        for _ in range(100):
            yield b" " * 100

    headers = {"content-type": "application/json"}
    error_of(Api(max_body_size=1000).request("POST", CHAT, content=body(), headers=headers), 413)


def test_half_a_surrogate_pair_does_no_harm() -> None:
    content = rb'{"messages": [{"role": "user", "content": "a\ud800b"}], "model": "\ud800"}'
    headers = {"content-type": "application/json"}
    error_of(Api().request("POST", CHAT, content=content, headers=headers), 404)
    content = rb'{"messages": [{"role": "user", "content": "a\ud800b"}], "stop": "\ud800"}'
    assert Api().request("POST", CHAT, content=content, headers=headers).status_code == 200


def test_a_failed_generation_is_no_answer() -> None:
    api = Api(fail_after("Hel"))
    error = error_of(api.chat(), 500)
    assert error["message"] == "the device failed"
    assert api.engine.running == []


@pytest.mark.parametrize("crash", [RuntimeError("secret detail"), ExecutorError("secret detail")])
def test_a_bug_tells_nothing_of_our_insides(crash: Exception, caplog: pytest.LogCaptureFixture) -> None:
    api = Api(play(crash))
    response = api.chat()
    assert error_of(response, 500)["type"] == "server_error"
    assert "secret" not in response.text
    assert "secret detail" in caplog.text
    assert api.engine.running == []


def test_a_bug_in_a_handler_is_answered_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    api = Api()
    api.engine.submit = None  # type: ignore[method-assign, assignment]
    response = api.chat()
    assert error_of(response, 500)["code"] == "internal_error"
    assert response.headers["x-request-id"]
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/tokenize"])
def test_every_generation_route_stands_without_v1_too(path: str) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}]} if path == CHAT else {"prompt": "Hi"}
    assert Api().post(path, body).status_code == 200
    assert Api().post(path.removeprefix("/v1"), body).status_code == 200
