"""The daemon as a user starts it: the command in a process of its own, on a free port."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import httpx


class Daemon:
    """A running `deltaloop serve`. What it writes goes to a file: a pipe that nobody reads would stop it when full."""

    def __init__(self, *arguments: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "server", "serve", *arguments, "--port", str(self.port), "--threads", "1"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DELTALOOP_")}
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `running_daemon`
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT, env=environment)

    def wait_until_ready(self, seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the daemon ended: {self.output()}")
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/ready").status_code == 200:
                    return
            time.sleep(0.1)
        raise AssertionError("the daemon did not become ready")

    def metric(self, name: str) -> float:
        """The value of a metric without further labels."""
        text = httpx.get(f"{self.url}/metrics").text
        found = re.search(rf"^{re.escape(name)}\{{[^}}]*\}} (\S+)$", text, re.MULTILINE)
        assert found, f"no metric {name}"
        return float(found.group(1))

    def wait_until_running(self, num_requests: int) -> None:
        while self.metric("vllm:num_requests_running") < num_requests:
            time.sleep(0.01)

    def wait_until_idle(self, seconds: float = 30.0) -> None:
        """Until nothing runs or waits and no block or slot is in use."""
        names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
        deadline = time.monotonic() + seconds
        while any(self.metric(name) for name in (*names, "deltaloop:state_slots_used")):
            assert time.monotonic() < deadline, "the daemon did not become idle"
            time.sleep(0.1)

    def stop(self) -> int:
        """Ask it to end; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def output(self) -> str:
        """Everything it wrote; only after it ended."""
        self.log.seek(0)
        return self.log.read().decode()


@contextlib.contextmanager
def running_daemon(*arguments: str) -> Iterator[Daemon]:
    daemon = Daemon(*arguments)
    try:
        daemon.wait_until_ready()
        yield daemon
    finally:
        daemon.process.kill()
        daemon.process.wait()
        daemon.log.close()
