"""Sealed files: a head and a payload, each with its checksum, so that a file is either what was written or refused.

    magic (8 bytes) | length of head, length of payload (two uint64, little endian) | head | CRC-32 of all before |
    payload | CRC-32 of the payload

Checksums guard against disks and power cuts, not against people: folders are the user's own.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from engine.filing import FileDamaged

MAGIC = b"dlstate1"
_LENGTHS = struct.Struct("<QQ")
_CHECKSUM = struct.Struct("<I")
_START = len(MAGIC) + _LENGTHS.size
_MOST_PARTS = 512  # in one call of the system
MODE = 0o600


def sealed_bytes(num_head_bytes: int, num_payload_bytes: int) -> int:
    """The size of a file."""
    return _START + num_head_bytes + num_payload_bytes + 2 * _CHECKSUM.size


def write_sealed(path: Path, head: bytes, payload: Sequence[memoryview]) -> None:
    """Write a file that only its owner may read, in place of one of that name. Raises `OSError`."""
    num_bytes = sum(part.nbytes for part in payload)
    start = MAGIC + _LENGTHS.pack(len(head), num_bytes) + head
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, MODE)
    try:
        _write_all(file, [memoryview(start + _CHECKSUM.pack(zlib.crc32(start)))])
        _write_all(file, payload)
        _write_all(file, [memoryview(_CHECKSUM.pack(_checksum(payload)))])
    finally:
        os.close(file)


def read_head(path: Path) -> bytes:
    """The head of a file that is complete, as far as its size tells.

    Raises:
        FileDamaged: it is not.
        OSError: it cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        return _read_head(path, file.fileno())[0]


def read_sealed(path: Path, head: bytes, payload: Sequence[memoryview]) -> None:
    """Fill these with a file's payload.

    Raises:
        FileDamaged: its head or size is another, or it is not what was written.
        OSError: it cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        found, offset = _read_head(path, file.fileno())
        if found != head:
            raise FileDamaged(f"{path.name} is of something else")
        num_bytes = sum(part.nbytes for part in payload)
        if os.fstat(file.fileno()).st_size != sealed_bytes(len(head), num_bytes):
            raise FileDamaged(f"{path.name} has another size")
        end = bytearray(_CHECKSUM.size)
        file.seek(offset)
        _read_all(path, file.fileno(), [*payload, memoryview(end)])
        if _CHECKSUM.unpack(end)[0] != _checksum(payload):
            raise FileDamaged(f"{path.name} is damaged")


def _read_head(path: Path, file: int) -> tuple[bytes, int]:
    """The head, and where the payload begins."""
    start = os.pread(file, _START, 0)
    if len(start) < _START or not start.startswith(MAGIC):
        raise FileDamaged(f"{path.name} is not ours, or of another version")
    num_head_bytes, num_payload_bytes = _LENGTHS.unpack(start[len(MAGIC) :])
    if os.fstat(file).st_size != sealed_bytes(num_head_bytes, num_payload_bytes):
        raise FileDamaged(f"{path.name} is not complete")
    rest = os.pread(file, num_head_bytes + _CHECKSUM.size, _START)
    head, checksum = rest[:num_head_bytes], rest[num_head_bytes:]
    if checksum != _CHECKSUM.pack(zlib.crc32(start + head)):
        raise FileDamaged(f"{path.name} is damaged")
    return head, _START + num_head_bytes + _CHECKSUM.size


def _checksum(parts: Iterable[memoryview]) -> int:
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return value


def _write_all(file: int, parts: Sequence[memoryview]) -> None:
    left = [part for part in parts if part.nbytes]
    while left:
        left = _after(left, os.writev(file, left[:_MOST_PARTS]))


def _read_all(path: Path, file: int, parts: Sequence[memoryview]) -> None:
    left = [part for part in parts if part.nbytes]
    while left:
        num_bytes = os.readv(file, left[:_MOST_PARTS])
        if not num_bytes:
            raise FileDamaged(f"{path.name} is not complete")
        left = _after(left, num_bytes)


def _after(parts: list[memoryview], num_bytes: int) -> list[memoryview]:
    """What is left of these after so many bytes."""
    for i, part in enumerate(parts):
        if num_bytes < part.nbytes:
            return [part[num_bytes:], *parts[i + 1 :]]
        num_bytes -= part.nbytes
    return []
