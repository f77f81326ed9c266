"""The models that are measured: slices of the real one with random weights, made once and kept in a folder."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.slice_to_gguf import convert
from benchmarks.subjects import REPOSITORY


@dataclass(frozen=True, slots=True)
class Slice:
    """How much of the real model: its layers, and the experts of each."""

    num_layers: int
    num_experts: int

    @classmethod
    def parse(cls, text: str) -> "Slice":
        """Of a text like 8x128; raises ValueError."""
        layers, experts = text.split("x")
        return cls(int(layers), int(experts))

    def __str__(self) -> str:
        return f"{self.num_layers}x{self.num_experts}"


@dataclass(frozen=True, slots=True)
class Files:
    """Makes what is asked for unless it is in `folder`. `llama_python` runs an environment with llama-cpp-python."""

    folder: Path
    llama_python: str

    def checkpoint(self, size: Slice) -> Path:
        """A folder in hub layout, bf16."""
        folder = self.folder / str(size)
        if not folder.exists():
            with _unfinished(folder) as scratch:
                _make_slice(size, scratch)
        return folder

    def gguf(self, size: Slice, preset: str) -> Path:
        """A GGUF file: BF16, or a preset of llama.cpp's quantiser such as Q4_K_M."""
        path = self.folder / f"{size}-{preset}.gguf"
        if path.exists():
            return path
        with _unfinished(path) as scratch:
            if preset == "BF16":
                convert(self.checkpoint(size), scratch)
            else:
                source = self.gguf(size, "BF16")
                _say(f"quantising {source.name} to {preset}")
                _run(self.llama_python, "-m", "benchmarks.llama", "quantise", str(source), preset, str(scratch))
        return path

    def lone_gguf(self, size: Slice, preset: str) -> Path:
        """A quantised file whose dense forms, several times its size, are not kept unless they are there already."""
        path = self.folder / f"{size}-{preset}.gguf"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
                Files(Path(scratch), self.llama_python).gguf(size, preset).rename(path)
        return path


def default_folder() -> Path:
    """In the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deltaloop" / "benchmarks"


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """A name beside `path`; what is there in the end gets the real one, so that no half-made model is ever used."""
    scratch = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    _say(f"making {path}")
    yield scratch
    scratch.rename(path)


def _make_slice(size: Slice, out: Path) -> None:
    layers, experts = str(size.num_layers), str(size.num_experts)
    _run(sys.executable, "-m", "benchmarks.make_slice", str(out), "--layers", layers, "--experts", experts)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, cwd=REPOSITORY, stdout=sys.stderr)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
