"""The keys and values of a GGUF file, and the cursor that reads them. Standard library only.

Nothing in a file is believed: every length is held against the bytes that are there before anything is read or made.
"""

import struct
import sys
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from mmap import mmap
from pathlib import Path
from typing import TypeAlias

from engine.errors import LoadError

MAX_HEADER_BYTES = 2**27  # real headers take some 10 MiB; what claims more is damaged, and must not cost hours

_LENGTH = struct.Struct("<Q")
_STRING, _ARRAY, _BOOL, _FLOAT32 = 8, 9, 7, 6
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}  # of `struct`


@dataclass(frozen=True, slots=True)
class Strings:
    """An array of strings as in the file, each its length and its bytes. A vocabulary is long and rarely wanted.

    Attributes:
        starts: where each string's length stands in `data`, and where the last string ends.
    """

    data: bytes
    starts: "array[int]"

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.data[self.starts[index] + _LENGTH.size : self.starts[index + 1]]

    def __iter__(self) -> Iterator[bytes]:
        data, size = self.data, _LENGTH.size
        return (data[start + size : end] for start, end in pairwise(self.starts))


Value: TypeAlias = "bool | int | float | str | Strings | array[int] | array[float]"


class Cursor:
    """Reads little-endian values one after the other from a mapped file; each method raises `LoadError` at its end."""

    def __init__(self, data: mmap | bytes, path: Path) -> None:
        self.position = 0
        self._data = data
        self._path = path
        self._end = min(len(data), MAX_HEADER_BYTES)

    def damaged(self, what: str) -> LoadError:
        """An error about what stands here."""
        return LoadError(f"{self._path} is damaged: {what} (near byte {self.position}); download it again")

    def number(self, code: str) -> int:
        """An integer of a `struct` code."""
        return int(self._unpack(code)[0])

    def text(self) -> str:
        """A string: its length in bytes, then UTF-8."""
        try:
            return self._take(self.number("Q")).decode()
        except UnicodeDecodeError:
            raise self.damaged("a string is not UTF-8") from None

    def value(self) -> Value:
        """A value after its type."""
        kind = self.number("I")
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self._array(self.number("I"), self.number("Q"))
        raw = self._unpack(self._code(kind))[0]
        if kind == _BOOL:
            return bool(raw)
        return _shortest(raw) if kind == _FLOAT32 else raw

    def _array(self, kind: int, count: int) -> Value:
        if kind == _STRING:
            return self._strings(count)
        code = self._code(kind)
        raw = array(code, self._take(struct.calcsize(f"<{code}") * count))
        if sys.byteorder == "big":
            raw.byteswap()
        return raw

    def _strings(self, count: int) -> Strings:
        data, start, position, end = self._data, self.position, self.position, self._end
        unpack, size = _LENGTH.unpack_from, _LENGTH.size
        starts = array("Q", [0])
        try:
            for _ in range(count):
                position += size + unpack(data, position)[0]
                if position > end:
                    raise self._cut_off()
                starts.append(position - start)
        except struct.error:
            raise self._cut_off() from None
        return Strings(self._take(position - start), starts)

    def _code(self, kind: int) -> str:
        if kind not in _CODES:
            raise self.damaged(f"a value is of type {kind}, which there is not")
        return _CODES[kind]

    def _unpack(self, code: str) -> tuple[int | float, ...]:
        form = f"<{code}"
        return struct.unpack(form, self._take(struct.calcsize(form)))

    def _take(self, num_bytes: int) -> bytes:
        start, self.position = self.position, self.position + num_bytes
        if self.position > self._end:
            self.position = start
            raise self._cut_off()
        return self._data[start : self.position]

    def _cut_off(self) -> LoadError:
        if len(self._data) > self._end:
            return self.damaged(f"its header goes beyond {MAX_HEADER_BYTES >> 20} MiB")
        return self.damaged("it ends inside its header")


def _shortest(value: float) -> float:
    """What a 32-bit float was written as: 0.95 and not 0.949999988, so that it equals the number in a JSON file."""
    for digits in range(6, 9):
        short = float(f"{value:.{digits}g}")
        if struct.unpack("<f", struct.pack("<f", short))[0] == value:
            return short
    return value


@dataclass(frozen=True, slots=True)
class GgufMetadata:
    """The keys of a model, with typed access: None for a key that is not there, `LoadError` for one of another type."""

    path: Path
    values: Mapping[str, Value]

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise self._wrong(key, "text")
        return value

    def integer(self, key: str) -> int | None:
        value = self.values.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise self._wrong(key, "an integer")
        return value

    def number(self, key: str) -> float | None:
        value = self.values.get(key)
        if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
            raise self._wrong(key, "a number")
        return value

    def strings(self, key: str) -> Strings | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, Strings):
            raise self._wrong(key, "an array of strings")
        return value

    def texts(self, key: str) -> list[str] | None:
        """The array's strings, decoded anew."""
        strings = self.strings(key)
        try:
            return None if strings is None else [item.decode() for item in strings]
        except UnicodeDecodeError:
            raise self._wrong(key, "UTF-8") from None

    def integers(self, key: str) -> list[int] | None:
        """An array of integers; booleans are 0 and 1."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, array) or value.typecode in "fd":
            raise self._wrong(key, "an array of integers")
        return [int(item) for item in value]

    def lacks(self, key: str) -> LoadError:
        """An error about a key that must be there."""
        return LoadError(f"{self.path} lacks the key {key}: it is incomplete, or no model; download it again")

    def _wrong(self, key: str, expected: str) -> LoadError:
        return LoadError(f"{self.path}: {key} should be {expected}; download the file again")
