"""Memory from the system, page by page."""

import math
import mmap
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


def untouched_zeros(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros on the CPU whose pages become real when they are first touched, and large ones where the system has them.

    Raises:
        MemoryError: the system refuses so much.
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    try:
        memory = mmap.mmap(-1, num_bytes, flags=PRIVATE)
    except OSError as error:
        raise MemoryError(f"there is no memory for {num_bytes} bytes") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a system without large pages has small ones
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(*shape)
