"""GGUF files: what is in them and where. Standard library only; tensors are described here and not touched.

Layout: github.com/ggml-org/ggml, docs/gguf.md. Versions 2 and 3, little-endian, in one file or in parts.
"""

import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.errors import LoadError
from engine.quant.formats import BY_GGML_ID, Format
from engine.weights.gguf_metadata import Cursor, GgufMetadata, Value
from engine.weights.naming import some

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT, LEAST_ALIGNMENT = 32, 8
MAX_DIMENSIONS = 4

_PART = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_NOT_SERVED = {
    9: "Q8_1", 15: "Q8_K", 19: "IQ1_S", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M",
    34: "TQ1_0", 35: "TQ2_0", 41: "Q1_0",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor is.

    Attributes:
        shape: outermost dimension first, `without_outer_ones`.
        offset, num_bytes: its place in the file `path`, which has been checked to hold it.
    """

    name: str
    shape: tuple[int, ...]
    format: Format
    path: Path
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A model in GGUF: its metadata and its tensors by name. `path` is the (first) file, `parts` are all of them."""

    path: Path
    parts: tuple[Path, ...]
    metadata: GgufMetadata
    tensors: Mapping[str, TensorInfo]

    @property
    def num_bytes(self) -> int:
        return sum(part.stat().st_size for part in self.parts)


def is_gguf(path: Path) -> bool:
    """Whether a model's path means a GGUF file and no folder."""
    return path.suffix == ".gguf" and not path.is_dir()


def read_gguf(path: Path) -> GgufFile:
    """Read the headers of a GGUF file, and of the other parts when it is one of several.

    Raises:
        LoadError: no GGUF file, a damaged or incomplete one, or one with tensors in a format that is not served.
    """
    given = _read_part(path)
    if (given.metadata.integer("split.count") or 1) == 1:
        return given
    parts = [given if other == path else _read_part(other) for other in _all_parts(given)]
    return _joined(parts)


def _all_parts(part: GgufFile) -> list[Path]:
    """The files of a model in parts, in order."""
    path, count = part.path, part.metadata.integer("split.count")
    match = _PART.fullmatch(path.name)
    if match is None or int(match["count"]) != count:
        raise LoadError(
            f"{path} is one of {count} parts, but not named so: give the parts back their names,"
            f" NAME-00001-of-{count:05}.gguf and on"
        )
    paths = [path.with_name(f"{match['name']}-{i + 1:05}-of-{count:05}.gguf") for i in range(count)]
    missing = [other.name for other in paths if not other.exists()]
    if missing:
        raise LoadError(f"{path.parent} lacks {some(missing)}: the download is incomplete")
    return paths


def _joined(parts: list[GgufFile]) -> GgufFile:
    metadata = parts[0].metadata
    tensors: dict[str, TensorInfo] = {}
    for i, part in enumerate(parts):
        named = part.metadata.integer("split.no"), part.metadata.integer("split.count")
        if named != (i, len(parts)):
            raise LoadError(f"{part.path} says that it is another part: give the parts of one model their own names")
        twice = tensors.keys() & part.tensors
        if twice:
            raise LoadError(f"{part.path} has {some(twice)} once more: these are not parts of one model")
        tensors |= part.tensors
    expected = metadata.integer("split.tensors.count")
    if expected is not None and expected != len(tensors):
        raise LoadError(
            f"{metadata.path} and its other parts hold {len(tensors)} tensors, not {expected}: download them again"
        )
    return GgufFile(metadata.path, tuple(part.path for part in parts), metadata, tensors)


def _read_part(path: Path) -> GgufFile:
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise LoadError(f"{path} is not a GGUF file: give one, or a folder in Hugging Face layout")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read_header(Cursor(data, path), path, len(data))
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror or error}") from None


def _read_header(cursor: Cursor, path: Path, file_bytes: int) -> GgufFile:
    cursor.position = len(MAGIC)
    _check_version(cursor.number("I"), path)
    num_tensors, num_keys = cursor.number("Q"), cursor.number("Q")
    values: dict[str, Value] = {}
    for _ in range(num_keys):
        key = cursor.text()
        if key in values:
            raise cursor.damaged(f"the key {key} is there twice")
        values[key] = cursor.value()
    metadata = GgufMetadata(path, values)
    raw: dict[str, tuple[list[int], int, int]] = {}
    for _ in range(num_tensors):
        name = cursor.text()
        if name in raw:
            raise cursor.damaged(f"the tensor {name} is there twice")
        raw[name] = _read_info(cursor)
    alignment = _alignment(metadata)
    start = -(-cursor.position // alignment) * alignment
    tensors = {
        name: _tensor(path, name, shape, kind, start + offset, alignment, file_bytes)
        for name, (shape, kind, offset) in raw.items()
    }
    return GgufFile(path, (path,), metadata, tensors)


def _check_version(version: int, path: Path) -> None:
    if version in VERSIONS:
        return
    if version and version & 0xFFFF == 0:
        raise LoadError(f"{path} is big-endian; deltaloop reads little-endian GGUF files: convert or download such one")
    raise LoadError(f"{path} is GGUF version {version}; deltaloop reads versions 2 and 3: convert it anew")


def _read_info(cursor: Cursor) -> tuple[list[int], int, int]:
    """Dimensions, outermost first, type and offset."""
    num_dimensions = cursor.number("I")
    if num_dimensions > MAX_DIMENSIONS:
        raise cursor.damaged(f"a tensor has {num_dimensions} dimensions")
    dimensions = [cursor.number("Q") for _ in range(num_dimensions)]
    return dimensions[::-1], cursor.number("I"), cursor.number("Q")


def _alignment(metadata: GgufMetadata) -> int:
    alignment = metadata.integer("general.alignment")
    if alignment is None:
        return DEFAULT_ALIGNMENT
    if alignment < LEAST_ALIGNMENT or alignment & (alignment - 1):
        raise LoadError(f"{metadata.path}: general.alignment is {alignment}, but must be a power of two from 8 up")
    return alignment


def _tensor(
    path: Path, name: str, shape: list[int], kind: int, offset: int, alignment: int, file_bytes: int
) -> TensorInfo:
    """Check one tensor's place and size."""
    known = BY_GGML_ID.get(kind)
    if known is None:
        raise LoadError(
            f"{path}: tensor {name} is of type {_NOT_SERVED.get(kind, kind)}, which deltaloop does not compute with:"
            " use a file with more bits a weight, Q4_K_M for example"
        )
    columns = shape[-1] if shape else 1
    try:
        num_bytes = known.row_bytes(columns)
    except ValueError as error:
        raise LoadError(f"{path}: tensor {name}: {error}; download the file again") from None
    for rows in shape[:-1]:
        num_bytes *= rows
    if offset % alignment or 0 in shape:
        raise LoadError(f"{path} is damaged: tensor {name} has no size or an odd place; download it again")
    if offset + num_bytes > file_bytes:
        raise LoadError(
            f"{path} is cut off: tensor {name} ends at byte {offset + num_bytes} of {file_bytes}; download it again"
        )
    return TensorInfo(name, without_outer_ones(tuple(shape)), known, path, offset, num_bytes)


def without_outer_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape as GGUF sees it, where every tensor has more dimensions of 1 outside, written or not."""
    return without_outer_ones(shape[1:]) if len(shape) > 1 and shape[0] == 1 else shape
