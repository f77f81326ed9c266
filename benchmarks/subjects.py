"""Engines that are measured, each loaded once in a process of its own and asked over a pipe: both of a pair stay alive,
and one is idle while the other works.

    python -m benchmarks.subjects NAME MODEL --threads 2

Answers questions, a line of JSON each, until its input ends. It runs in the peers' environments too, so what a subject
needs is imported when it is made.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Protocol

REPOSITORY = Path(__file__).parents[1]


class SubjectFailed(Exception):
    """A process that was to be measured ended, or did not begin."""


@dataclass(frozen=True, slots=True)
class Generated:
    """What each stream got: its tokens, and the seconds from the question to each of them."""

    token_ids: list[list[int]]
    seconds: list[list[float]]

    @classmethod
    def empty(cls, num_streams: int) -> "Generated":
        return cls([[] for _ in range(num_streams)], [[] for _ in range(num_streams)])


def add_to(generated: Generated, stream: int, token_id: int, seconds: float) -> None:
    """Note one more token of a stream."""
    generated.token_ids[stream].append(token_id)
    generated.seconds[stream].append(seconds)


class Subject(Protocol):
    """One engine with a model loaded."""

    def generate(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> Generated:
        """Continue all prompts, which are of one length, at once and greedily, whatever ends an answer."""
        ...


class Worker:
    """A subject in a process of its own, started by the first question and kept until `close`."""

    def __init__(self, name: str, model: Path, python: str, options: Sequence[str]) -> None:
        self.name = name
        self._command = [python, "-m", "benchmarks.subjects", name, str(model), *options]
        self._process: subprocess.Popen[str] | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def ask(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> Generated:
        """See `Subject.generate`. Raises `SubjectFailed` if the process ends instead of answering."""
        if self._process is None:
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True, cwd=REPOSITORY)
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"prompts": prompts, "num_tokens": num_tokens}) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise SubjectFailed(f"{self.name} ended with code {process.wait()}")
        return Generated(**json.loads(answer))

    def close(self) -> None:
        """End the process, and wait until its memory is free."""
        if self._process is not None:
            self._process.communicate()
            self._process = None


def answer_questions(subject: Subject, questions: IO[str], answers: IO[str]) -> None:
    """The other end of the pipe."""
    for line in questions:
        answers.write(json.dumps(asdict(subject.generate(**json.loads(line)))) + "\n")
        answers.flush()


def make(name: str, model: Path, args: argparse.Namespace) -> Subject:
    """Load a subject."""
    if name == "deltaloop":
        from benchmarks.ours import Deltaloop

        return Deltaloop(model, args.threads, args.max_inter_token_gap)
    if name == "llama.cpp":
        from benchmarks.llama import LlamaCpp

        return LlamaCpp(model, args.threads, args.ubatch, args.repack)
    if name == "transformers":
        from benchmarks.peers import Transformers

        return Transformers(model, args.threads)
    from benchmarks.peers import Vllm

    return Vllm(model, args.threads)


def main() -> None:
    """One subject's process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["deltaloop", "llama.cpp", "transformers", "vllm"])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--max-inter-token-gap", type=float, help="deltaloop's setting, seconds")
    parser.add_argument("--ubatch", type=int, default=512, help="llama.cpp's n_ubatch, tokens")
    parser.add_argument("--repack", action=argparse.BooleanOptionalAction, default=True, help="llama.cpp's setting")
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the terminal, not among the answers
    answer_questions(make(args.name, args.model, args), sys.stdin, answers)


if __name__ == "__main__":
    main()
