"""Responses as real clients ask for them, prose taken out: every one of them must be served."""

import json
from pathlib import Path

import pytest

from tests.support.api import Api
from tests.support.event_streams import events_of
from tests.support.scripted_engine import say
from tests.support.tiny_text_model import tiny_model

CAPTURES = sorted((Path(__file__).parent / "data" / "responses").glob("*.json"))


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.stem)
def test_a_real_request_is_served(capture: Path, caplog: pytest.LogCaptureFixture) -> None:
    recorded = json.loads(capture.read_text("utf-8"))
    response = Api(say("Hello"), model=tiny_model("qwen3-coder-next")).post(recorded["path"], recorded["body"])
    assert response.status_code == 200, response.text
    answer = events_of(response.text)[-1]["response"] if recorded["body"].get("stream") else response.json()
    assert answer["status"] == "completed"
    assert answer["output"][0]["content"][0]["text"] == "Hello"
    assert "is not known here" not in caplog.text
