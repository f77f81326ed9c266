"""The `llm` command in a process of its own: an answer, a tool loop, and failures."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import yaml

from engine.types import GenerationRequest
from tests.support.api import Api, live
from tests.support.scripted_engine import TOKENIZER, Step, say

CALL = "<tool_call>\n<function=shout>\n<parameter=word>\nhi\n</parameter>\n</function>\n</tool_call>"
FUNCTIONS = 'def shout(word: str) -> str:\n    "Say it louder."\n    return word.upper()\n'


def call_then_end(request: GenerationRequest) -> Iterable[Step]:
    """A call at first; once a result is there, an end."""
    prompt = TOKENIZER.decode(request.prompt_ids, skip_special_tokens=False)
    return say("It said HI." if "HI" in prompt else CALL)(request)


def llm(url: str, home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    model = {
        "model_id": "local",
        "model_name": "tiny-qwen-coder",
        "api_base": f"{url}/v1",
        "api_key_name": "local",
        "supports_tools": True,
    }
    (home / "extra-openai-models.yaml").write_text(yaml.safe_dump([model]))
    (home / "keys.json").write_text('{"local": "x"}')
    environment = {**os.environ, "LLM_USER_PATH": str(home)}
    command = [sys.executable, "-m", "llm", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_an_answer(tmp_path: Path) -> None:
    with live(Api(say("Hello wörld"))) as url:
        done = llm(url, tmp_path, "-m", "local", "Hi")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "Hello wörld"


def test_a_tool_loop(tmp_path: Path) -> None:
    with live(Api(call_then_end)) as url:
        done = llm(url, tmp_path, "-m", "local", "--functions", FUNCTIONS, "Shout hi")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "It said HI."


def test_an_overflow_is_an_error(tmp_path: Path) -> None:
    with live(Api()) as url:
        done = llm(url, tmp_path, "-m", "local", "x" * 5000)
    assert done.returncode == 1
    assert "maximum context length" in done.stderr
