"""An editor at work: the bundled model fills gaps over a socket, and reads little with each keystroke."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.daemon import Daemon, running_daemon

BEFORE = '"""Numbers."""\n\nimport math\n\n\n' + "".join(
    f"def times_{number}(value):\n    return value * {number}\n\n\n" for number in range(2, 12)
)
AFTER = "\n    return total\n"
OTHERS = [{"filename": f"{name}.py", "text": f"def {name}(path):\n    return open(path)\n" * 8} for name in ("a", "b")]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon() as running:
        yield running


def infill(daemon: Daemon, **body: Any) -> Any:
    whole = {"input_prefix": BEFORE, "input_suffix": AFTER, "temperature": 0.0, "n_predict": 16, **body}
    response = httpx.post(f"{daemon.url}/infill", json=whole, timeout=120)
    assert response.status_code == 200, response.text
    return response.json()


def test_a_keystroke_costs_the_line_and_what_follows(daemon: Daemon) -> None:
    warm = infill(daemon, input_extra=OTHERS, n_predict=0, prompt="def add(values):\n    total")
    assert (warm["content"], warm["tokens_predicted"], warm["tokens_cached"]) == ("", 0, 0)
    typed = infill(daemon, input_extra=OTHERS, prompt="def add(values):\n    total = s")
    line_and_after = 40
    assert typed["timings"]["prompt_n"] <= line_and_after
    assert typed["tokens_cached"] + typed["timings"]["prompt_n"] == typed["tokens_evaluated"]
    assert typed["content"]


def test_another_file_costs_no_more_than_itself_and_what_follows(daemon: Daemon) -> None:
    infill(daemon, input_extra=OTHERS, n_predict=0)
    more = infill(daemon, input_extra=[OTHERS[0], {"filename": "c.py", "text": "x = 1\n"}], n_predict=0)
    first = f"<|repo_name|>repository\n<|file_sep|>{OTHERS[0]['filename']}\n{OTHERS[0]['text']}"
    same = httpx.post(f"{daemon.url}/tokenize", json={"content": first}).json()["count"]
    assert more["tokens_cached"] == same


def test_the_same_gap_by_every_name(daemon: Daemon) -> None:
    """Cold or warm, in whatever words: the same tokens make the same text."""
    prefix, suffix = "def add(a, b):\n    ", "\n\nprint(add(1, 2))\n"
    fields = {"temperature": 0.0, "max_tokens": 16}
    ours = infill(daemon, input_prefix=prefix, input_suffix=suffix)["content"]
    body = {"prompt": prefix, "suffix": suffix, **fields}
    openai = httpx.post(f"{daemon.url}/v1/completions", json=body, timeout=120).json()["choices"][0]["text"]
    options = {"temperature": 0.0, "num_predict": 16}
    body = {"prompt": prefix, "suffix": suffix, "options": options, "stream": False}
    ollama = httpx.post(f"{daemon.url}/api/generate", json=body, timeout=120).json()["response"]
    assert ours == openai == ollama
    assert "return" in ours
