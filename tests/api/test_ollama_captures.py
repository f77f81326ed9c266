"""Requests as real clients send them, prose taken out: every one of them must be served."""

import json
from pathlib import Path

import pytest

from tests.support.api import Api
from tests.support.tiny_text_model import tiny_model

CAPTURES = sorted((Path(__file__).parent / "data" / "ollama").glob("*.json"))
NOT_OFFERED = {"/api/embed"}


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.stem)
def test_a_real_request_is_served(capture: Path) -> None:
    recorded = json.loads(capture.read_text("utf-8"))
    content = None if recorded["body"] is None else json.dumps(recorded["body"]).encode()
    headers = {"content-type": recorded["content_type"]} if recorded["content_type"] else {}
    api = Api(model=tiny_model("qwen3-coder-next"))
    response = api.request(recorded["method"], recorded["path"], content=content, headers=headers)
    if recorded["path"] in NOT_OFFERED:
        assert response.status_code == 501
        assert response.json().keys() == {"error"}
        return
    assert response.status_code == 200, response.text
    lines = [json.loads(line) for line in response.text.splitlines()]
    if recorded["path"] in {"/api/chat", "/api/generate"}:
        text = "".join(line["message"]["content"] if "message" in line else line["response"] for line in lines)
        limit = (recorded["body"].get("options") or {}).get("num_predict")
        assert text == "Hello"[:limit]
        assert lines[-1]["done"] is True
