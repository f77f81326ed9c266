"""Files as tensors without copying them, and reading their pages before they are needed."""

import ctypes
import errno
import mmap
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

CHUNK_BYTES = 16 << 20
NUM_READERS = 4  # more than one keeps a fast disk busy
MADV_WILLNEED, MADV_POPULATE_READ = 3, 22


def map_file(path: Path) -> Tensor:
    """A file that is not empty, as uint8 [bytes]. Pages are read when first touched, and may be dropped and read again.

    The mapping lives as long as any view of it. It is read-only: writing to it ends the process, and so does touching
    what somebody has cut off the file meanwhile.
    Raises:
        OSError: it cannot be opened or mapped.
    """
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have memory that can be written
        return torch.frombuffer(mapped, dtype=torch.uint8)


def read_ahead(tensors: Iterable[Tensor], report: Callable[[int], None]) -> None:
    """Touch every page of these contiguous CPU tensors, in the order they lie in memory; reports bytes as it goes on.

    Nothing is copied, and tensors that are not mapped take no time.
    """
    in_order = sorted((tensor for tensor in tensors if tensor.numel()), key=Tensor.data_ptr)
    pieces = [piece for tensor in in_order for piece in tensor.view(torch.uint8).flatten().split(CHUNK_BYTES)]
    pool = ThreadPoolExecutor(NUM_READERS, "read-ahead")
    try:
        for num_bytes in pool.map(_touch, _chunks(pieces)):
            report(num_bytes)
    finally:
        pool.shutdown(cancel_futures=True)


def _chunks(pieces: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Pieces that are worth a thread's while together."""
    chunk: list[Tensor] = []
    size = 0
    for piece in pieces:
        chunk.append(piece)
        size += piece.numel()
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _touch(chunk: list[Tensor]) -> int:
    for piece in chunk:
        start = piece.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
        if not _populate(start, piece.data_ptr() + piece.numel() - start):
            piece[:: mmap.PAGESIZE].sum()
    return sum(piece.numel() for piece in chunk)


def _populate(address: int, length: int) -> bool:
    """Have Linux 5.14 or later map the pages; false where that is not to be had."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)  # calls through ctypes let other threads run
    place = ctypes.c_void_p(address), ctypes.c_size_t(length)
    libc.madvise(*place, MADV_WILLNEED)  # all of them at once from the disk, not as they are touched
    return libc.madvise(*place, MADV_POPULATE_READ) == 0 or ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS)
