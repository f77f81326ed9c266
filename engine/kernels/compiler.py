"""The C++ compiler at hand: finding it, asking what it knows, and making a shared library with it.

Standard library only.
"""

import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine.kernels.instruction_sets import InstructionSet

FLAGS = ("-std=c++17", "-O3", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden")
OPENMP = "-fopenmp"
POLL_SECONDS = 0.02
ANSWER_SECONDS = 20.0


class BuildError(Exception):
    """There is no library: one line that says why."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C++ compiler: its command, and what it says of its version."""

    command: tuple[str, ...]
    version: str

    @classmethod
    def find(cls, commands: Sequence[str]) -> "Compiler | None":
        """The first of these commands that runs and tells its version; each may bring arguments."""
        for command in commands:
            words = tuple(shlex.split(command))
            version = _answer([*words, "--version"]) if words else None
            if version is not None:
                return cls(words, version)
        return None

    @property
    def title(self) -> str:
        """The first line of the version, e.g. "g++ (Debian 12.2.0-14) 12.2.0"."""
        return self.version.strip().partition("\n")[0]

    def flags(self, instruction_set: InstructionSet) -> tuple[str, ...] | None:
        """Flags for a set, with OpenMP if the compiler has it; None when it does not know the set."""
        if self._accepts(*instruction_set.flags, OPENMP, source="#include <omp.h>"):
            return (*FLAGS, *instruction_set.flags, OPENMP)
        return (*FLAGS, *instruction_set.flags) if self._accepts(*instruction_set.flags) else None

    def _accepts(self, *flags: str, source: str = "") -> bool:
        return _answer([*self.command, *flags, "-fsyntax-only", "-x", "c++", "-"], source) is not None

    def make(self, units: Sequence[Path], flags: Sequence[str], library: Path, jobs: int, deadline: float) -> None:
        """Compile each unit in a process of its own, `jobs` at a time, link, and put the library in place in one go.

        Raises:
            BuildError: it does not compile.
            TimeoutError: not before `deadline`, a time of time.monotonic.
            OSError: the folder of the library cannot be written to.
        """
        command = [*self.command, *flags]
        with tempfile.TemporaryDirectory(prefix="build-", dir=library.parent) as name:
            folder = Path(name)
            objects = [str(folder / f"{unit.stem}.o") for unit in units]
            linked = folder / library.name
            compiling = [[*command, "-c", str(unit), "-o", made] for unit, made in zip(units, objects, strict=True)]
            _run(compiling, folder, jobs, deadline)
            _run([[*command, "-shared", *objects, "-o", str(linked)]], folder, jobs, deadline)
            with linked.open("rb") as file:
                os.fsync(file.fileno())
            linked.replace(library)


def _answer(command: Sequence[str], text: str = "") -> str | None:
    """What a command prints; None if it fails, hangs or does not exist."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout


def _run(commands: Sequence[Sequence[str]], folder: Path, jobs: int, deadline: float) -> None:
    """Run commands, `jobs` at a time; on the first failure, or at the deadline, end them all and raise."""
    waiting = list(enumerate(commands))
    running: dict[Path, subprocess.Popen[bytes]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                number, command = waiting.pop(0)
                log = folder / f"{number}.log"
                running[log] = _start(command, log)
            for log, process in list(running.items()):
                if process.poll() is not None:
                    del running[log]
                    if process.returncode:
                        raise BuildError(_first_error(log.read_text("utf-8", "replace"), process.returncode))
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(POLL_SECONDS)
    finally:
        for process in running.values():
            with suppress(OSError):  # it has just ended by itself
                os.killpg(process.pid, signal.SIGKILL)  # with what it started: the compiler proper, the linker
            process.wait()


def _start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "LC_ALL": "C"}  # errors are looked for by the English word
    with log.open("wb") as file:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True
        )


def _first_error(output: str, code: int) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()] or [f"exit status {code}"]
    found = next((line for line in lines if "error: " in line and "ld returned" not in line), lines[0])
    return f"the kernels do not compile: {found[:300]}"
