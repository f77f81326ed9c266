"""POST /infill and suffix: what is odd, what is wrong, what is kept, and who goes first."""

import json
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken

from server.chat.model_files import ModelFiles
from server.chat.tokenizer import Tokenizer
from server.model import ServedModel, served_model
from tests.support.api import Api, chunks_of
from tests.support.scripted_engine import TOKENIZER, say

GAP: dict[str, Any] = {"input_prefix": "def f():\n", "input_suffix": "\nf()"}


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("it was encoded")


def prompt_of(api: Api) -> str:
    return TOKENIZER.decode(api.asked.prompt_ids, skip_special_tokens=False)


def without_marks_but(*marks: str) -> ServedModel:
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    return served_model(ModelFiles(inner), ("m",))


@pytest.mark.parametrize("missing", [{}, {"input_prefix": None, "input_suffix": None, "input_extra": None}])
def test_nothing_around_the_gap(missing: dict[str, Any]) -> None:
    api = Api()
    assert api.post("/infill", missing).status_code == 200
    assert prompt_of(api) == "<|fim_prefix|><|fim_suffix|><|fim_middle|>"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"input_prefix": 5}, "input_prefix"),
        ({"input_suffix": ["a"]}, "input_suffix"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"input_extra": "a"}, "input_extra"),
        ({"input_extra": ["a"]}, "input_extra[0]"),
        ({"input_extra": [{"filename": 5}]}, "input_extra[0].filename"),
        ({"input_extra": [{"text": {}}]}, "input_extra[0].text"),
        ({"n_indent": -1}, "n_indent"),
        ({"n_indent": 10**400}, "n_indent"),
        ({"n_predict": "many"}, "n_predict"),
        ({"t_max_predict_ms": "soon"}, "t_max_predict_ms"),
        ({"response_fields": [5]}, "response_fields"),
        ({"stop": [None]}, "stop"),
    ],
)
def test_what_is_wrong_is_named(body: dict[str, Any], named: str) -> None:
    error = Api().post("/infill", {**GAP, **body}).json()["error"]
    assert (error["code"], error["type"]) == (400, "invalid_request_error")
    assert named in error["message"]


def test_halves_of_characters_pass() -> None:
    half = "\ud83d"
    body = json.dumps({"input_prefix": half, "input_suffix": half, "input_extra": [{"filename": half, "text": half}]})
    api = Api()
    response = api.request("POST", "/infill", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 200
    assert prompt_of(api).count("\ufffd") == 4


def test_a_gap_in_a_context_that_is_full() -> None:
    error = Api().post("/infill", {**GAP, "prompt": "x" * 5000}).json()["error"]
    assert (error["type"], error["n_ctx"]) == ("exceed_context_size_error", 4096)
    text = f"request ({error['n_prompt_tokens']} tokens) exceeds the available context size (4096 tokens)"
    assert error["message"].startswith(text)


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/infill", GAP, "does not fill in the middle"),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}, "does not fill in the middle"),
    ],
)
def test_a_model_that_fills_no_gaps(path: str, body: dict[str, Any], named: str) -> None:
    response = Api(model=without_marks_but("<|im_end|>")).post(path, body)
    assert response.status_code == 400
    assert named in response.json()["error"]["message"]


def test_a_model_that_knows_no_other_files() -> None:
    api = Api(model=without_marks_but("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"))
    assert api.post("/infill", GAP).status_code == 200
    response = api.post("/infill", {**GAP, "input_extra": [{"filename": "a", "text": "b"}]})
    assert response.status_code == 400
    assert "other files" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "is_interactive"),
    [
        ("/infill", GAP, True),
        ("/v1/completions", {"prompt": "a", "suffix": "b", "max_tokens": 3000}, True),
        ("/completion", {"prompt": "a" * 3000}, False),
        ("/v1/completions", {"prompt": "a" * 3000, "max_tokens": 3000}, False),
    ],
)
def test_somebody_waits_at_a_keyboard(path: str, body: dict[str, Any], is_interactive: bool) -> None:
    api = Api()
    assert api.post(path, body).status_code == 200
    assert api.asked.interactive == is_interactive


@pytest.mark.parametrize("body", [{"n_predict": -1}, {"max_tokens": -1}, {"n_predict": None}, {}])
def test_no_limit(body: dict[str, Any]) -> None:
    assert Api(say("Hello")).post("/infill", {**GAP, **body}).json()["content"] == "Hello"


def test_a_warm_up_in_a_stream() -> None:
    text = Api(say("never")).post("/infill", {**GAP, "n_predict": 0, "stream": True}).text
    [event] = [json.loads(line.removeprefix("data: ")) for line in text.strip().split("\n\n")]
    assert (event["content"], event["stop"], event["stop_type"], event["tokens_predicted"]) == ("", True, "limit", 0)


def test_a_suffix_in_a_stream_as_kilo_sends_it() -> None:
    api = Api(say("pass<|endoftext|>more"))
    chunks = chunks_of(api.post("/v1/completions", {"prompt": "a", "suffix": "b", "stream": True}).text)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(choice["text"] for choice in choices) == "pass"
    assert choices[-1]["finish_reason"] == "stop"


def test_a_suffix_for_each_of_several_prompts() -> None:
    api = Api()
    answer = api.post("/v1/completions", {"prompt": ["a", "c"], "suffix": "b"}).json()
    assert [choice["text"] for choice in answer["choices"]] == ["Hello", "Hello"]
    prompts = [TOKENIZER.decode(asked.prompt_ids, skip_special_tokens=False) for asked in api.engine.requests]
    assert prompts == [f"<|fim_prefix|>{text}<|fim_suffix|>b<|fim_middle|>" for text in ("a", "c")]


def test_a_long_suffix_does_not_stand_in_many_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be encoded for each: a small body could keep the server busy for minutes."""
    api = Api()
    monkeypatch.setattr(Tokenizer, "encode", never)
    answer = api.post("/v1/completions", {"prompt": [""] * 900, "suffix": "x" * 20_000})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "suffix")
    assert "18000000 characters" in answer.json()["error"]["message"]


@pytest.mark.parametrize("suffix", ["", "b"])
def test_too_many_prompts_are_refused_before_they_are_read(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api()
    monkeypatch.setattr(Tokenizer, "encode", never)
    answer = api.post("/v1/completions", {"prompt": ["a"] * 5000, "suffix": suffix})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")
    assert "5000 sequences" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"), [("/infill", GAP), ("/api/generate", {"prompt": "a", "suffix": "b", "stream": False})]
)
def test_a_gap_without_a_limit_is_no_novel(path: str, body: dict[str, Any]) -> None:
    api = Api()
    for more, limit in (({}, 256), ({"n_predict": -1, "options": {"num_predict": -1}}, None)):
        assert api.post(path, {**body, **more}).status_code == 200
        assert (api.asked.sampling.max_tokens == 256) is (limit == 256)


@pytest.mark.parametrize("suffix", ["", None])
def test_no_suffix_is_none(suffix: str | None) -> None:
    api = Api()
    assert api.complete(suffix=suffix).status_code == 200
    assert prompt_of(api) == "def f"
