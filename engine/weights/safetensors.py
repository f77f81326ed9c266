"""Safetensors checkpoints: one file, or shards with an index. Every file is mapped and stays so; nothing is copied.

A file is eight bytes with the length of a header, the header in JSON, and the tensors' bytes without gaps.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from engine.errors import LoadError
from engine.weights.mapped import map_file
from engine.weights.naming import some

INDEX = "model.safetensors.index.json"
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # the library's own limit
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A tensor of a checkpoint: `data` is a view of the mapped file, `dtype` the file's name for its type."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Tensor


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
                raise LoadError(f"{folder} lacks {some(missing)}, named in {INDEX}: the download is incomplete")
            return cls(files)
        files = tuple(sorted(folder.glob("*.safetensors")))
        if not files:
            raise LoadError(f"{folder} has no *.safetensors file: give a folder with a model in Hugging Face layout")
        return cls(files)

    @property
    def num_bytes(self) -> int:
        return sum(f.stat().st_size for f in self.files)

    def tensors(self) -> Iterator[StoredTensor]:
        """Every tensor of every file; raises `LoadError` for one that cannot be mapped or is damaged."""
        for path in self.files:
            yield from read_safetensors(path)


def read_safetensors(path: Path) -> list[StoredTensor]:
    """Map a file and describe its tensors, in the order of their bytes.

    Raises:
        LoadError: it cannot be mapped, is cut off, or its header does not describe just what follows it.
    """
    try:
        if path.stat().st_size < LENGTH_BYTES:
            raise _Damage("it is empty")
        whole = map_file(path)
        length = int.from_bytes(bytes(whole[:LENGTH_BYTES].tolist()), "little")
        if length > min(len(whole) - LENGTH_BYTES, MAX_HEADER_BYTES):
            raise _Damage("its header is longer than it")
        header = _read_header(whole[LENGTH_BYTES : LENGTH_BYTES + length].numpy().tobytes())
        return _views(header, whole, LENGTH_BYTES + length)
    except _Damage as damage:
        raise LoadError(f"{path} is not a whole safetensors file ({damage}): download it again") from None
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror or error}") from None


class _Damage(Exception):
    """What is wrong with a file."""


def _read_header(text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = dict(pairs)
        if len(keys) != len(pairs):
            raise _Damage("its header has a name twice")
        return keys

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise _Damage("its header is not JSON") from None
    if not isinstance(header, dict):
        raise _Damage("its header is not an object")
    header.pop("__metadata__", None)
    return header


def _views(header: dict[str, Any], whole: Tensor, start: int) -> list[StoredTensor]:
    """Views of the tensors, which have to follow each other from `start` to the end of the file."""
    described = [(*_described(name, entry), name) for name, entry in header.items()]
    described.sort(key=lambda item: item[:2])
    end, num_bytes, views = 0, whole.numel(), []
    for first, last, dtype, shape, name in described:
        if first != end:
            raise _Damage(f"tensor {name} does not start where the one before it ends")
        if start + last > num_bytes:
            raise _Damage(f"tensor {name} ends at byte {start + last} of {num_bytes}")
        data = whole[start + first : start + last]
        if (start + first) % DTYPES[dtype].itemsize:
            data = data.clone()  # rare: writers pad the header, and sort by size
        views.append(StoredTensor(name, dtype, shape, data.view(DTYPES[dtype]).view(shape)))
        end = last
    if start + end != num_bytes:
        raise _Damage(f"it has {num_bytes} bytes, its tensors end at {start + end}")
    return views


def _described(name: str, entry: Any) -> tuple[int, int, str, tuple[int, ...]]:
    """First byte, end, dtype and shape, as far as they fit together."""
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2 or not isinstance(dtype, str):
        raise _Damage(f"its header describes tensor {name} wrongly")
    if dtype not in DTYPES:
        raise _Damage(f"tensor {name} is of type {dtype}, which is not known here")
    first, last = offsets
    if last - first != math.prod(shape) * DTYPES[dtype].itemsize:
        raise _Damage(f"tensor {name} has {last - first} bytes, {dtype} {shape} takes another number")
    return first, last, dtype, tuple(shape)


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
