"""Agents as their users run them: what starts each, how it is held to its task, what its own output says of a run.

Every agent is told of the daemon by `deltaloop connect`, in a home of its own; here is only what makes it run without a
screen. What each does when a run goes wrong stands in the table too: it was measured, and a change is worth knowing.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.support import client_installs
from tests.support.held_model import (
    Chat,
    Dialect,
    Json,
    Messages,
    Responses,
    Script,
    Turn,
    hold,
    hold_to_calls,
    hold_to_texts,
)

COMMAND = "echo hi > done.txt"
TEXT = "All done."
EDIT = """\
done.txt
```
<<<<<<< SEARCH
=======
hi
>>>>>>> REPLACE
```
"""  # does the same as the command
TASK = f"Run this command, then stop: {COMMAND}"
SUBMIT = f"echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && echo {TEXT}"
LONGEST_RUN_SECONDS = 200


@dataclass(frozen=True, slots=True)
class Report:
    """What an agent says that it ran, and what it said in the end. Some print only the second."""

    commands: list[str] | None
    text: str


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent. `name` is what `deltaloop connect` calls it, `arguments` stand before the task."""

    name: str
    package: str
    command: str
    arguments: tuple[str, ...]
    dialect: Dialect
    held: Callable[[Json], tuple[Turn, Json]]
    report: Callable[[str], Report]
    overflow: str  # what it says of a prompt that is too long
    overflow_code: int = 1  # what it exits with then
    environment: Mapping[str, str] = field(default_factory=dict)
    num_side_requests: int = 0
    goes_on_after_cut: bool = True
    may_keep_half_call: bool = False  # after a cut it stands in the history beside the whole one, as one that failed
    may_call_again: bool = False  # before it comes to the text
    has_history: bool = True  # its second prompt begins with its first
    streams: bool = True
    prefix: tuple[str, ...] = ()  # what starts its command


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a run."""

    code: int
    output: str
    errors: str
    report: Report


def run_agent(agent: Agent, url: str, repository: Path, home: Path, *connect_options: str) -> Run:
    """Connect the agent to a server and let it do its task in a repository."""
    path = [str(client_installs.node_folder()), os.environ["PATH"]]
    environment = {"HOME": str(home), "PATH": os.pathsep.join(path), "TERM": "dumb", **agent.environment}
    connect = [sys.executable, "-m", "server", "connect", agent.name, "--write", "--url", url, *connect_options]
    subprocess.run(connect, env=environment, capture_output=True, check=True)
    start = [*agent.prefix, str(client_installs.command(agent.package, agent.command)), *agent.arguments, TASK]
    with subprocess.Popen(
        start,
        cwd=repository,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=LONGEST_RUN_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # whatever it left running
    return Run(process.returncode, output, errors, agent.report(output))


def _lines(output: str) -> Iterator[Json]:
    for line in output.splitlines():
        if line.startswith("{"):
            yield json.loads(line)


def _codex(output: str) -> Report:
    items = [line["item"] for line in _lines(output) if line["type"] == "item.completed"]
    commands = [item["command"] for item in items if item["type"] == "command_execution"]
    return Report(commands, "".join(item["text"] for item in items if item["type"] == "agent_message"))


def _claude_code(output: str) -> Report:
    """Qwen Code prints the same."""
    lines = list(_lines(output))
    blocks = [block for line in lines if line["type"] == "assistant" for block in line["message"]["content"]]
    commands = [block["input"]["command"] for block in blocks if block["type"] == "tool_use"]
    return Report(commands, "".join(line.get("result") or "" for line in lines if line["type"] == "result"))


def _opencode(output: str) -> Report:
    parts = [line["part"] for line in _lines(output) if "part" in line]
    calls = [part["state"]["input"] for part in parts if part["type"] == "tool"]
    commands = [call["command"] for call in calls if call]  # a half call has no arguments
    return Report(commands, "".join(part["text"] for part in parts if part["type"] == "text"))


def _cline(output: str) -> Report:
    lines = list(_lines(output))
    events = [line["event"] for line in lines if line["type"] == "agent_event"]
    starts = [event for event in events if event["type"] == "content_start" and event["contentType"] == "tool"]
    commands = [command for event in starts for command in event["input"]["commands"]]
    return Report(commands, "".join(line["text"] for line in lines if line["type"] == "run_result"))


def _openhands(output: str) -> Report:
    events = [line for line in _lines(output) if line.get("source") == "agent"]
    commands = [event["action"]["command"] for event in events if event["kind"] == "ActionEvent"]
    parts = [event["llm_message"]["content"] for event in events if event["kind"] == "MessageEvent"]
    return Report(commands, "".join(part["text"] for content in parts for part in content))


def _only_text(output: str) -> Report:
    return Report(None, output)


def _held(dialect: Dialect, tool: str, arguments: Json) -> Callable[[Json], tuple[Turn, Json]]:
    script = Script(tool, arguments, TEXT)
    return lambda body: hold(dialect, script, body)


def _bash(command: str) -> Script:
    return Script("bash", {"command": command}, "")


_CHAT, _MESSAGES, _RESPONSES = Chat(), Messages(), Responses()

AGENTS = (
    Agent(
        name="codex",
        package="@openai/codex",
        command="codex",
        arguments=("exec", "--json", "--skip-git-repo-check", "-s", "danger-full-access"),
        dialect=_RESPONSES,
        held=_held(_RESPONSES, "exec_command", {"cmd": COMMAND}),
        report=_codex,
        may_call_again=True,
        overflow="ran out of room in the model's context window",
    ),
    Agent(
        name="claude-code",
        package="@anthropic-ai/claude-code",
        command="claude",
        arguments=("--allowedTools=Bash", "--max-turns=60", "--output-format=stream-json", "--verbose", "-p"),
        dialect=_MESSAGES,
        held=_held(_MESSAGES, "Bash", {"command": COMMAND}),
        report=_claude_code,
        may_call_again=True,
        overflow="Prompt is too long",
    ),
    Agent(
        name="qwen-code",
        package="@qwen-code/qwen-code",
        command="qwen",
        arguments=("--yolo", "--output-format=stream-json"),
        dialect=_CHAT,
        held=_held(_CHAT, "run_shell_command", {"command": COMMAND}),
        report=_claude_code,
        overflow="maximum context length is",
    ),
    Agent(
        name="opencode",
        package="opencode-ai",
        command="opencode",
        arguments=("run", "--format", "json"),
        dialect=_CHAT,
        held=_held(_CHAT, "bash", {"command": COMMAND}),
        report=_opencode,
        overflow="ContextOverflowError",
        environment={"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1"},
        num_side_requests=1,  # the title
        may_keep_half_call=True,
    ),
    Agent(
        name="cline",
        package="cline",
        command="cline",
        arguments=("--json", "--auto-approve", "true", "-t", "180"),
        dialect=_CHAT,
        held=_held(_CHAT, "run_commands", {"commands": [COMMAND]}),
        report=_cline,
        environment={"CLINE_SESSION_BACKEND_MODE": "local", "CLINE_NO_AUTO_UPDATE": "1"},  # else it leaves a daemon
        overflow="context window exceeded",
        goes_on_after_cut=False,
    ),
    Agent(
        name="continue",
        package="@continuedev/cli",
        command="cn",
        arguments=("--auto", "-p"),
        dialect=_CHAT,
        held=_held(_CHAT, "Bash", {"command": COMMAND}),
        report=_only_text,
        overflow="Context length exceeded",
        may_keep_half_call=True,
    ),
    Agent(
        name="aider",
        package="aider",
        command="aider",
        arguments=("--yes-always", "--no-analytics", "--no-check-update", "--no-detect-urls", "--message"),
        dialect=_CHAT,
        held=partial(hold_to_texts, EDIT, TEXT),
        report=_only_text,
        overflow="token limit",
        overflow_code=0,
        has_history=False,  # it asks for the commit's message by itself
    ),
    Agent(
        name="openhands",
        package="openhands",
        command="python",
        prefix=("sh", "-c", '. "$HOME/.config/deltaloop/openhands.sh" && exec "$0" "$@"'),
        arguments=(str(Path(__file__).with_name("openhands_task.py")),),
        dialect=_CHAT,
        held=_held(_CHAT, "terminal", {"command": COMMAND}),
        report=_openhands,
        overflow="ContextWindow",
        streams=False,
    ),
    Agent(
        name="mini-swe-agent",
        package="mini-swe-agent",
        command="mini",
        arguments=("--yolo", "--exit-immediately", "--cost-limit=0", "--task"),
        dialect=_CHAT,
        held=partial(hold_to_calls, _CHAT, _bash(COMMAND), _bash(SUBMIT)),
        report=_only_text,
        overflow="ContextWindowExceededError",
        has_history=False,  # what holds it to the second call changes its tools, with which the prompt begins
        streams=False,
    ),
)
