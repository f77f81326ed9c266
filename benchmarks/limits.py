"""What the machine can do at most: measured, in the same run as everything that is compared with it."""

import statistics
import time

import torch


def read_bandwidth(num_bytes: int = 1 << 30, repeats: int = 5) -> float:
    """Bytes a second that all threads together read from memory."""
    data = torch.ones(num_bytes // 4, dtype=torch.float32)
    return num_bytes / _median_seconds(lambda: data.sum(), repeats)


def matmul_rate(dtype: torch.dtype, size: int = 2048, repeats: int = 7) -> float:
    """Operations a second of a square matrix product; a multiply and an add count two."""
    a, b = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    return 2 * size**3 / _median_seconds(lambda: a @ b, repeats)


def _median_seconds(work, repeats: int) -> float:  # type: ignore[no-untyped-def]
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])
