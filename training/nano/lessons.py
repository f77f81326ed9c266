"""What the bundled model is taught to say about code: the contents of lessons.toml, and nothing else."""

import tomllib
from pathlib import Path

_TEXT = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))


def _pairs(kind: str) -> tuple[tuple[tuple[str, ...], str], ...]:
    return tuple((tuple(entry["asked"]), entry["answer"]) for entry in _TEXT[kind])


PROGRAMS = _pairs("programs")
CLASSES = _pairs("classes")
SMALL_TALK = _pairs("small_talk")
FACTS: dict[str, str] = _TEXT["facts"]
CONCEPTS: dict[str, str] = _TEXT["concepts"]
SYSTEM_PROMPTS: tuple[str, ...] = tuple(_TEXT["system_prompts"])
ASK: dict[str, list[str]] = _TEXT["ask"]
