"""A daemon that is killed in the middle of a conversation: the next one goes on where the disk has it."""

import hashlib
import json
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.daemon import Daemon, running_daemon

TOOLS = [
    {
        "type": "function",
        "function": {"name": "read_file", "parameters": {"type": "object", "properties": {"path": {"type": "string"}}}},
    }
]
SYSTEM = "You are an agent that works on code. " * 20
KEYS = ("sk-key-of-the-first", "sk-key-of-the-second")
QUESTIONS = ("Read the file src/main.py.", "What does it do? Write a long answer.", "Now count from one to twenty.")


def ask(daemon: Daemon, messages: list[dict[str, Any]], key: str | None = None, **more: Any) -> dict[str, Any]:
    body = {"messages": messages, "tools": TOOLS, "temperature": 1, "seed": 7, "max_tokens": 40, "cache_report": True}
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    answer = httpx.post(f"{daemon.url}/v1/chat/completions", json=body | more, headers=headers, timeout=120)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def converse(daemon: Daemon, messages: list[dict[str, Any]], question: str, key: str | None = None) -> dict[str, Any]:
    """One more turn; the message that comes back loses what clients lose."""
    messages.append({"role": "user", "content": question})
    answer = ask(daemon, messages, key)
    message = answer["choices"][0]["message"]
    for call in message.get("tool_calls") or []:
        arguments = json.loads(call["function"]["arguments"])
        call["function"]["arguments"] = json.dumps(arguments, indent=1, sort_keys=True)
    messages.append({**message, "content": (message["content"] or "").strip() or None})
    calls = message.get("tool_calls") or []
    messages += [{"role": "tool", "tool_call_id": call["id"], "content": "print('hello')"} for call in calls]
    return answer


def wait_until_written(daemon: Daemon) -> None:
    """As soon as nothing is left to be written; within the two seconds that are promised."""
    deadline = time.monotonic() + 10
    while daemon.metric("deltaloop:disk_lag_seconds"):
        assert daemon.metric("deltaloop:disk_lag_seconds") < 2
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill(daemon: Daemon) -> None:
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait()


def test_a_killed_daemon_changes_nothing_but_time(tmp_path: Path) -> None:
    options = ("--cache-dir", str(tmp_path / "cache"), "--cache-disk-bytes", "1GB", "--dtype", "float32")
    with running_daemon("--dtype", "float32") as daemon:
        undisturbed: list[dict[str, Any]] = [{"role": "system", "content": SYSTEM}]
        for question in QUESTIONS:
            converse(daemon, undisturbed, question)
    messages: list[dict[str, Any]] = [{"role": "system", "content": SYSTEM}]
    for number, question in enumerate(QUESTIONS):
        with running_daemon(*options) as daemon:
            answer = converse(daemon, messages, question)
            usage = answer["usage"]
            [report] = usage["cache_report"]
            if number:
                assert report["tier"] == "disk"
                # All but the end of the answer's turn, the question, and the opening of the next turn.
                assert usage["prompt_tokens"] - report["cached_tokens"] < 80
                assert daemon.metric("deltaloop:restore_seconds_count") == 1
            else:
                assert report["tier"] is None
            wait_until_written(daemon)
            assert daemon.metric("deltaloop:disk_states_kept") > 0
            kill(daemon)
    texts = [(m.get("content"), [c["function"] for c in m.get("tool_calls") or []]) for m in messages]
    assert texts == [(m.get("content"), [c["function"] for c in m.get("tool_calls") or []]) for m in undisturbed]


def test_keys_and_deletion_hold_across_restarts(tmp_path: Path) -> None:
    options = ("--cache-dir", str(tmp_path), "--cache-disk-bytes", "1GB", "--api-key", ",".join(KEYS))
    messages: list[dict[str, Any]] = [{"role": "system", "content": SYSTEM}]
    with running_daemon(*options) as daemon:
        converse(daemon, messages, QUESTIONS[0], KEYS[0])
        assert daemon.stop() == 0  # written on the way out
        written = daemon.output().encode() + b"".join(f.read_bytes() for f in tmp_path.rglob("*") if f.is_file())
        assert written.count(b"num_tokens") > 0
        for secret in (KEYS[0], hashlib.sha256(KEYS[0].encode()).hexdigest()):
            assert secret.encode() not in written
    with running_daemon(*options) as daemon:
        assert _cached(daemon, messages, KEYS[1]) == 0
        assert _cached(daemon, messages, KEYS[0]) > 0
        headers = {"Authorization": f"Bearer {KEYS[0]}"}
        shown = httpx.get(f"{daemon.url}/cache", headers=headers).json()
        assert shown["disk"]["max_bytes"] == 10**9
        assert shown["disk"]["bytes"] > 0
        assert httpx.request("DELETE", f"{daemon.url}/cache", headers=headers).json()["num_forgotten"] > 0
        assert httpx.get(f"{daemon.url}/cache", headers=headers).json()["kept"] == []
        assert daemon.stop() == 0
    with running_daemon(*options) as daemon:
        assert _cached(daemon, messages, KEYS[0]) == 0


def _cached(daemon: Daemon, messages: list[dict[str, Any]], key: str) -> int:
    question = {"role": "user", "content": "And now?"}
    usage = ask(daemon, [*messages, question], key, max_tokens=1)["usage"]
    return int(usage["prompt_tokens_details"]["cached_tokens"])


def test_two_daemons_do_not_share_a_folder(tmp_path: Path) -> None:
    with running_daemon("--cache-dir", str(tmp_path)):
        second = Daemon("--cache-dir", str(tmp_path))
        try:
            assert second.process.wait(60) == 1
            assert "another process" in second.output()
        finally:
            second.process.kill()
            second.log.close()


@pytest.mark.parametrize("value", ["/proc/none/here", "/dev/null"])
def test_a_folder_that_cannot_be_had_is_said_at_start(value: str) -> None:
    daemon = Daemon("--cache-dir", value)
    try:
        assert daemon.process.wait(60) == 1
        assert "cache folder" in daemon.output()
    finally:
        daemon.process.kill()
        daemon.log.close()
