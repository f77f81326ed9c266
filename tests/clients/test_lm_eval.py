"""lm-eval, the evaluation harness, with tasks of its own form: it generates, and it asks how likely texts are."""

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import client_installs
from tests.support.daemon import Daemon
from tests.support.fault_proxy import Fault, fault_proxy
from tests.support.held_model import Chat

pytestmark = [
    pytest.mark.agents,
    pytest.mark.skipif(
        client_installs.why_missing("lm-eval") is not None,
        reason=f"lm-eval is not installed: {client_installs.why_missing('lm-eval')}",
    ),
]

QUESTIONS = [
    {"question": "def double(x):\n    return", "choices": ["x * 2", "x / 2", "None"], "answer": "x * 2"},
    {"question": "for i in", "choices": ["range(10):", "while:"], "answer": "range(10):"},
]
TASKS: dict[str, dict[str, Any]] = {
    "generates": {
        "output_type": "generate_until",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 16, "temperature": 0},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
    "chooses": {
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{choices.index(answer)}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
}
CHAT = ("--model", "local-chat-completions", "--apply_chat_template")
COMPLETIONS = ("--model", "local-completions")


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder of tasks. lm-eval reads YAML, of which JSON is a part."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    questions = folder / "questions.jsonl"
    questions.write_text("".join(f"{json.dumps(question)}\n" for question in QUESTIONS))
    for name, task in TASKS.items():
        common = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(questions)}},
            "test_split": "test",
            "doc_to_text": "{{question}}",
        }
        (folder / f"{name}.yaml").write_text(json.dumps({**common, **task}))
    return folder


def answers(tasks: Path, name: str, model: tuple[str, ...], url: str, *more: str) -> list[Any]:
    """Run one task; the model's answers to each of its questions, as lm-eval recorded them."""
    output = tasks.parent / "output"
    settings = ",".join(["model=qwen3-coder-nano", f"base_url={url}", *more])
    command = [str(client_installs.command("lm-eval", "lm_eval")), "run", *model, "--model_args", settings]
    files = ["--include_path", str(tasks), "--tasks", name, "--output_path", str(output), "--log_samples"]
    environment = {
        "HOME": str(tasks.parent),
        "PATH": os.environ["PATH"],
        "OPENAI_API_KEY": "x",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run([*command, *files], env=environment, capture_output=True, text=True, timeout=140)
    assert done.returncode == 0, done.stdout + done.stderr
    [results] = output.rglob("results_*.json")
    numbers = [value for value in json.loads(results.read_text())["results"][name].values() if isinstance(value, float)]
    assert all(math.isfinite(number) for number in numbers)
    assert numbers
    [samples] = output.rglob("samples_*.jsonl")
    found = [json.loads(line)["resps"] for line in samples.read_text().splitlines()]
    results.unlink()
    samples.unlink()
    assert len(found) == len(QUESTIONS)
    return found


def test_it_generates_the_same_twice_and_when_refused_once(daemon: Daemon, tasks: Path) -> None:
    path = Chat.path
    first = answers(tasks, "generates", CHAT, daemon.url + path)
    assert all(isinstance(text, str) and text for [[text]] in first)
    with fault_proxy(daemon.url, Chat(), lambda body: ("call", body), Fault(refused=True)) as proxy:
        second = answers(tasks, "generates", CHAT, proxy.url + path)
    assert [exchange.status for exchange in proxy.exchanges] == [503] + [200] * len(QUESTIONS)
    assert first == second


def test_it_weighs_choices_the_same_twice(daemon: Daemon, tasks: Path) -> None:
    url, own_tokens = f"{daemon.url}/v1/completions", "tokenizer_backend=remote"
    first, second = (answers(tasks, "chooses", COMPLETIONS, url, own_tokens) for _ in range(2))
    for question, responses in zip(QUESTIONS, first, strict=True):
        assert len(responses) == len(question["choices"])
        assert all(math.isfinite(float(likelihood)) and float(likelihood) < 0 for [[likelihood, _]] in responses)
    assert first == second
