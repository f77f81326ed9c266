"""Files as tensors without copying them, and reading their pages before they are needed."""

import ctypes
import errno
import mmap
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

CHUNK_BYTES = 16 << 20
NUM_READERS = 4  # more than one keeps a fast disk busy
MADV_WILLNEED, MADV_DONTNEED, MADV_POPULATE_READ = 3, 4, 22


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


def read_soon(tensors: Iterable[Tensor]) -> None:
    """Have the system begin to read these contiguous tensors from the disk, all at once; does not wait for it."""
    for start, end in _runs(tensors):
        _advise(start, end, MADV_WILLNEED)


def forget(tensors: Iterable[Tensor]) -> None:
    """Give back the memory of these contiguous tensors, which nobody reads any more: of mapped ones the system keeps
    what it likes."""
    for tensor in tensors:
        start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        end = _page_of(tensor.data_ptr() + tensor.nbytes)
        if end > start:
            _advise(start, end, MADV_DONTNEED)


def read_ahead(tensors: Iterable[Tensor], report: Callable[[int], None]) -> None:
    """Touch every page of these contiguous CPU tensors, in the order they lie in memory; reports bytes as it goes on.

    Nothing is copied, and tensors that are not mapped take no time.
    """
    pool = ThreadPoolExecutor(NUM_READERS, "read-ahead")
    try:
        for num_bytes in pool.map(_touch, _chunks(tensors)):
            report(num_bytes)
    finally:
        pool.shutdown(cancel_futures=True)


def _runs(tensors: Iterable[Tensor]) -> Iterator[tuple[int, int]]:
    """Where CPU tensors lie: first address and end of each run of them without a page between."""
    places = sorted((tensor.data_ptr(), tensor.nbytes) for tensor in tensors if tensor.device.type == "cpu")
    start = end = 0
    for place, num_bytes in places:
        if place > end + mmap.PAGESIZE:
            if end > start:
                yield start, end
            start = place
        end = max(end, place + num_bytes)
    if end > start:
        yield start, end


def _chunks(tensors: Iterable[Tensor]) -> Iterator[tuple[int, int]]:
    """Runs, cut into pieces for the threads to share."""
    for first, last in _runs(tensors):
        for start in range(first, last, CHUNK_BYTES):
            yield start, min(start + CHUNK_BYTES, last)


def _touch(chunk: tuple[int, int]) -> int:
    start, end = chunk
    _advise(start, end, MADV_WILLNEED)  # all of it at once from the disk, not page by page as these are touched
    if not _advise(start, end, MADV_POPULATE_READ):
        first = _page_of(start)
        data = (ctypes.c_uint8 * (end - first)).from_address(first)
        torch.frombuffer(data, dtype=torch.uint8)[:: mmap.PAGESIZE].sum()
    return end - start


def _advise(start: int, end: int, advice: int) -> bool:
    """Whether the system knows this advice on memory; Linux has both, populating since 5.14."""
    if sys.platform != "linux":
        return False
    first = _page_of(start)
    failed = _libc().madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), advice)
    return not failed or ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS)


def _page_of(address: int) -> int:
    return address // mmap.PAGESIZE * mmap.PAGESIZE


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)  # calls through ctypes let other threads run
