"""Requests of Anthropic's dialect as real clients send them, prose taken out: every one of them must be served."""

import json
import re
from pathlib import Path

import pytest

from tests.support.api import Api
from tests.support.scripted_engine import ScriptedEngine, say
from tests.support.tiny_text_model import tiny_model

CAPTURES = sorted((Path(__file__).parent / "data" / "anthropic").glob("*.json"))


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.stem)
def test_a_real_request_is_served(capture: Path) -> None:
    recorded = json.loads(capture.read_text("utf-8"))
    api = Api(engine=ScriptedEngine(say("Hello")), model=tiny_model("qwen3-coder-next", "m"))
    response = api.post(recorded["path"], recorded["body"])
    assert response.status_code == 200, response.text
    if api.engine.requests:
        assert "".join(re.findall(r'"(?:text|delta|content|response)":"([Helo]+)"', response.text)).startswith("Hello")
