"""Requests as real clients send them, prose taken out: every one of them must be served."""

import json
from pathlib import Path

import pytest

from tests.support.api import Api, chunks_of
from tests.support.tiny_text_model import tiny_model

CAPTURES = sorted((Path(__file__).parent / "data").glob("*.json"))


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.stem)
def test_a_real_request_is_served(capture: Path) -> None:
    recorded = json.loads(capture.read_text("utf-8"))
    model = tiny_model("qwen3-coder-next", "m")
    response = Api(model=model).post(recorded["path"], recorded["body"])
    assert response.status_code == 200, response.text
    if not recorded["body"].get("stream"):
        choice = response.json()["choices"][0]
        assert (choice.get("message", {}).get("content") or choice.get("text")) == "Hello"
        return
    chunks = chunks_of(response.text)
    assert [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]][-1] == "stop"
    wants_usage = (recorded["body"].get("stream_options") or {}).get("include_usage")
    assert (chunks[-1]["choices"] == []) == bool(wants_usage)


def test_autocomplete_ends_on_a_control_token_that_is_one_of_its_stops() -> None:
    recorded = json.loads((Path(__file__).parent / "data" / "continue-autocomplete.json").read_text("utf-8"))
    api = Api(model=tiny_model("qwen3-coder-next"))
    assert api.post(recorded["path"], recorded["body"]).status_code == 200
    tokenizer = tiny_model().tokenizer
    marks = {tokenizer.token_to_id(stop) for stop in ("<|endoftext|>", "<|fim_prefix|>", "<|im_end|>")}
    assert marks <= set(api.asked.sampling.stop_token_ids)
