"""mini-swe-agent as a user runs it: its own command and loop, a repository, the bundled model, until it submits.

The model is too small to repair anything, so each of its turns is held to one of a few commands, drawn almost evenly:
left to itself it would repeat what it did last. The one that submits works only once the file is right, so a run ends
well when it has repaired it, whatever the order. That takes half a dozen turns as a rule, and may take a hundred.
"""

import json
import os
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support import client_installs
from tests.support.daemon import Daemon

pytestmark = [
    pytest.mark.agents,
    pytest.mark.skipif(
        client_installs.why_missing("mini-swe-agent") is not None,
        reason=f"mini-swe-agent is not installed: {client_installs.why_missing('mini-swe-agent')}",
    ),
]

MODEL = "openai/qwen3-coder-nano"
TASK = "greeting.py says helo. Make it say hello."
LOOK = "cat greeting.py"
REPAIR = """echo 'print("hello")' > greeting.py"""
SUBMIT = "grep -q hello greeting.py && echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && git diff"
COMMANDS = [LOOK, REPAIR, SUBMIT]
MOST_STEPS = 100

BASH = {
    "type": "function",
    "function": {
        "name": "bash",
        "parameters": {
            "type": "object",
            "properties": {"command": {"type": "string", "enum": COMMANDS}},
            "required": ["command"],
        },
    },
}
EVENLY = {"temperature": 100, "top_p": 1, "top_k": -1}  # no seed: one would draw the same in every turn
# The agent's tool takes any command, and its settings cannot say otherwise: the extra body replaces it.
CALLS = {"tool_choice": "required", "parallel_tool_calls": False, "extra_body": {"tools": [BASH], **EVENLY}}
ANSWERS = [f"```mswea_bash_command\n{command}\n```" for command in COMMANDS]
BLOCKS = {"extra_body": {"structured_outputs": {"choice": ANSWERS}, **EVENLY}}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "greeting.py").write_text('print("helo")\n')
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    for arguments in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "Greet"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder


def run_of(daemon: Daemon, repository: Path, config: str, model: dict[str, Any]) -> Any:
    """What the agent recorded of its run."""
    kwargs = {"api_base": f"{daemon.url}/v1", "num_retries": 0, **model["model_kwargs"]}
    settings = {
        "agent": {"mode": "yolo", "confirm_exit": False, "step_limit": MOST_STEPS, "cost_limit": 0},
        "model": {"model_name": MODEL, "cost_tracking": "ignore_errors", **model, "model_kwargs": kwargs},
    }
    own, record = repository.parent / "settings.yaml", repository.parent / "record.json"
    own.write_text(json.dumps(settings))
    files = ["-c", config, "-c", str(own), "-o", str(record)]
    command = [str(client_installs.command("mini-swe-agent", "mini")), "-t", TASK, *files]
    environment = os.environ | {
        "OPENAI_API_KEY": "x",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "MSWEA_CONFIGURED": "true",
        "MSWEA_GLOBAL_CONFIG_DIR": str(repository.parent / "configuration"),
    }
    done = subprocess.run(
        command, cwd=repository, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=200
    )
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    return json.loads(record.read_text())


def command_of(turn: Any) -> str:
    [action] = turn["extra"]["actions"]
    return str(action["command"])


@pytest.mark.parametrize(
    ("config", "model"),
    [
        ("mini.yaml", {"model_kwargs": CALLS}),
        ("mini_textbased.yaml", {"model_class": "litellm_textbased", "model_kwargs": BLOCKS}),
    ],
    ids=["tool calls", "blocks in text"],
)
def test_a_run_ends_with_the_repaired_file_submitted(
    daemon: Daemon, repository: Path, config: str, model: dict[str, Any]
) -> None:
    record = run_of(daemon, repository, config, model)
    assert record["info"]["exit_status"] == "Submitted"
    assert '+print("hello")' in record["info"]["submission"]
    assert (repository / "greeting.py").read_text() == 'print("hello")\n'

    turns = [message for message in record["messages"] if message["role"] == "assistant"]
    commands = [command_of(turn) for turn in turns]
    assert set(commands) <= set(COMMANDS)
    assert REPAIR in commands
    assert commands[-1] == SUBMIT
    assert record["info"]["model_stats"]["api_calls"] == len(commands)
    results = [
        message["extra"]["returncode"] for message in record["messages"] if "returncode" in message.get("extra", {})
    ]
    assert [code == 0 for code in results[: len(commands) - 1]] == [command != SUBMIT for command in commands[:-1]]

    usages = [turn["extra"]["response"]["usage"] for turn in turns]
    for before, usage in pairwise(usages):  # all of the last turn but the mark at its end, at least
        assert usage["prompt_tokens_details"]["cached_tokens"] >= before["total_tokens"] - 1
