"""From a server's start until it is ready, and the most memory it took for that."""

import os
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.subjects import REPOSITORY, SubjectFailed

READY_TIMEOUT_SECONDS = 600.0
POLL_SECONDS = 0.02
CHUNK_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a server.

    Attributes:
        ready_seconds: from its start to the first request that it answers.
        token_seconds: from its start to the end of the first answer, of one token.
        peak_bytes: the most it had in memory until it came to rest after that, mapped files included.
    """

    ready_seconds: float
    token_seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Server:
    """A server's command, which takes a port as its last argument, and a path that answers 200 once it is ready."""

    command: Sequence[str]
    ready_path: str

    def start(self) -> Start:
        """Start it, look, and stop it. Raises `SubjectFailed` when it does not become ready."""
        port = _free_port()
        url = f"http://127.0.0.1:{port}"
        started = time.perf_counter()
        process = subprocess.Popen(
            [*self.command, str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=REPOSITORY,
            env=_with_compiled_modules(),
        )
        try:
            with httpx.Client(base_url=url, timeout=READY_TIMEOUT_SECONDS) as client:
                wait_until_ready(process, client, self.ready_path)
                ready = time.perf_counter() - started
                client.post("/v1/completions", json={"prompt": "Hello", "max_tokens": 1}).raise_for_status()
                token = time.perf_counter() - started
                _wait_for_rest(process.pid)
                peak = _peak_bytes(process.pid)
        finally:
            process.terminate()
            process.wait()
        return Start(ready, token, peak)


def deltaloop_server(python: str, model: Path, threads: int) -> Server:
    """Our daemon."""
    command = [python, "-m", "server", "serve", str(model), "--threads", str(threads), "--port"]
    return Server(command, "/ready")


def llama_server(python: str, model: Path, threads: int) -> Server:
    """The server that comes with llama-cpp-python."""
    command = [python, "-m", "llama_cpp.server", "--model", str(model), "--n_threads", str(threads), "--port"]
    return Server(command, "/v1/models")


def wait_until_ready(process: subprocess.Popen[bytes], client: httpx.Client, path: str = "/ready") -> None:
    """Ask a server until it answers 200. Raises `SubjectFailed` when it ends instead, or takes too long."""
    deadline = time.monotonic() + READY_TIMEOUT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.get(path).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(POLL_SECONDS)
    raise SubjectFailed(f"{process.args!r} did not become ready")


def read_into_page_cache(*paths: Path) -> int:
    """Read files once; how many bytes they have together."""
    buffer, num_bytes = bytearray(CHUNK_BYTES), 0
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                num_bytes += count
    return num_bytes


def _wait_for_rest(pid: int) -> None:
    """Until it has taken less than a tenth of a second's processor time, for one second."""
    before = 0.0
    while (now := _cpu_seconds(pid)) > before + 0.1:
        before = now
        time.sleep(1.0)


def _cpu_seconds(pid: int) -> float:
    """What the process has taken of all processors."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _with_compiled_modules() -> dict[str, str]:
    """The environment, in which Python may keep what it compiled for the next start."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
