"""`open_checkpoint`: a model's files, whatever their layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from engine.model.config import ModelConfig
from engine.weights.conversion import Conversion
from engine.weights.gguf import open_gguf
from engine.weights.gguf_file import is_gguf
from engine.weights.hub import open_hub
from engine.weights.source import WeightSource


class Checkpoint(Protocol):
    """A model's configuration, and its weights when they are wanted."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def paths(self) -> tuple[Path, ...]:
        """All its files."""
        ...

    @property
    def num_bytes(self) -> int:
        """Of all its files of weights."""
        ...

    def weights(self, conversion: Conversion, report: Callable[[int], None]) -> WeightSource:
        """Map the files; `report` is told the bytes of tensors as they are converted. Raises `LoadError`."""
        ...


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a folder in hub layout, or a GGUF file; raises `LoadError` for anything that is no model we serve."""
    return open_gguf(path) if is_gguf(path) else open_hub(path)
