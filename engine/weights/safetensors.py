"""Safetensors checkpoints: one file, or shards with an index. Files are memory-mapped, one at a time."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.errors import LoadError

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class SafetensorsCheckpoint:
    """The tensor files of a model folder, in name order."""

    files: tuple[Path, ...]

    @classmethod
    def find(cls, folder: Path) -> "SafetensorsCheckpoint":
        """Find the files; raises `LoadError` when there are none, or the index names one that is not there."""
        index = folder / INDEX
        if index.exists():
            try:
                names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
                files = tuple(sorted(folder / name for name in names))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise LoadError(
                    f"{index} cannot be read ({type(error).__name__}: {error}): download it again"
                ) from None
            missing = [f.name for f in files if not f.exists()]
            if missing:
                raise LoadError(f"{folder} lacks {_some(missing)}, named in {INDEX}: the download is incomplete")
            return cls(files)
        files = tuple(sorted(folder.glob("*.safetensors")))
        if not files:
            raise LoadError(f"{folder} has no *.safetensors file: give a folder with a model in Hugging Face layout")
        return cls(files)

    @property
    def num_bytes(self) -> int:
        return sum(f.stat().st_size for f in self.files)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor with its name. A tensor maps its file: copy it before asking for the next file's."""
        for path in self.files:
            try:
                with safe_open(path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 (not a mapping)
                        yield name, file.get_tensor(name)
            except (SafetensorError, OSError) as error:
                raise LoadError(f"{path} is not a whole safetensors file ({error}): download it again") from None


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
