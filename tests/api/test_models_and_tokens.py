"""GET /v1/models for every reader, and prompts as tokens in the words of vLLM and llama.cpp."""

import json
from typing import Any

import pytest

from tests.support.api import Api, hello
from tests.support.scripted_engine import TOKENIZER


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/v1/models/", "/v1/models?limit=1000"])
def test_every_reader_finds_its_members(path: str) -> None:
    found = Api(served_model_name=("a",)).get(path).json()
    [card] = found["data"]
    assert found["object"] == "list"
    assert {"id", "object", "created", "owned_by", "max_model_len", "context_length"} <= set(card)
    assert card["max_model_len"] == card["context_length"] == card["meta"]["n_ctx"] == 4096
    assert (card["type"], card["created_at"][-1], found["has_more"]) == ("model", "Z", False)
    assert found["first_id"] == found["last_id"] == card["id"] == card["display_name"]
    assert found["models"] == []  # entries that are not Codex's own make it refuse the whole list


def test_one_model() -> None:
    name = Api().get("/v1/models").json()["data"][0]["id"]
    assert Api().get(f"/v1/models/{name}").json()["id"] == name
    assert Api().get("/v1/models/gpt-9").status_code == 404


@pytest.mark.parametrize("path", ["/tokenize", "/v1/tokenize"])
def test_a_text_by_either_name(path: str) -> None:
    ids = TOKENIZER.encode("ab<|im_end|>", parse_special=True)
    assert Api().post(path, {"prompt": "ab<|im_end|>", "add_special_tokens": False}).json()["tokens"] == ids
    assert Api().post(path, {"content": "ab<|im_end|>"}).json()["tokens"] == ids
    plain = Api().post(path, {"content": "ab<|im_end|>", "parse_special": False}).json()["tokens"]
    assert len(plain) > len(ids)
    pieces = Api().post(path, {"content": "ab", "with_pieces": True}).json()["tokens"]
    assert [piece["piece"] for piece in pieces] == ["a", "b"]


def test_pieces_of_a_character_are_bytes() -> None:
    pieces = Api().post("/tokenize", {"content": "á", "with_pieces": True}).json()["tokens"]
    assert [piece["piece"] for piece in pieces] == [[0xC3], [0xA1]]


@pytest.mark.parametrize("name", ["prompt", "content"])
def test_an_empty_text_has_no_tokens(name: str) -> None:
    assert Api().post("/tokenize", {name: ""}).json()["tokens"] == []


@pytest.mark.parametrize("parse_special", [True, False])
def test_odd_texts_have_tokens(parse_special: bool) -> None:
    body = json.dumps({"content": "\ud800" * 70_000, "parse_special": parse_special})
    response = Api().request("POST", "/tokenize", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 200
    assert response.json()["count"] == 3 * 70_000


@pytest.mark.parametrize("named", ["with_pieces", "return_token_strs"])
def test_the_text_of_each_token_of_what_fits_the_context(named: str) -> None:
    api = Api()
    most = api.engine.info.max_model_len
    answer = api.post("/tokenize", {"content": "\x01" * most, named: True}).json()
    assert len(answer["tokens" if named == "with_pieces" else "token_strs"]) == most
    refused = api.post("/tokenize", {"content": "\x01" * (most + 1), named: True})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, named)


@pytest.mark.parametrize("body", [{}, {"prompt": "a", "content": "b"}, {"prompt": "a", **hello()}])
def test_one_of_them_and_no_more(body: dict[str, Any]) -> None:
    assert Api().post("/tokenize", body).status_code == 400


def test_there_and_back() -> None:
    answer = Api().post("/detokenize", {"tokens": TOKENIZER.encode("def f", parse_special=False)}).json()
    assert answer == {"prompt": "def f", "content": "def f"}


def test_the_prompt_of_messages() -> None:
    api = Api()
    prompt = api.post("/apply-template", hello()).json()["prompt"]
    api.chat()
    assert prompt == TOKENIZER.decode(api.asked.prompt_ids, skip_special_tokens=False)
    counted = api.post("/v1/chat/completions/input_tokens", hello()).json()["input_tokens"]
    assert counted == len(api.asked.prompt_ids)


def test_what_a_harness_needs_to_write_prompts() -> None:
    info = Api().get("/tokenizer_info").json()
    assert "messages" in info["chat_template"]
    assert info["eos_token"] == "<|im_end|>"
