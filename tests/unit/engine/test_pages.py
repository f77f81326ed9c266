"""Memory that costs nothing until it is used."""

import sys
from pathlib import Path

import pytest
import torch

from engine.pages import untouched_zeros

MIB = 1 << 20


def test_zeros_of_any_type() -> None:
    found = untouched_zeros((3, 5, 7), torch.bfloat16)
    assert found.shape == (3, 5, 7)
    assert found.is_contiguous()
    assert torch.equal(found, torch.zeros(3, 5, 7, dtype=torch.bfloat16))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process has in memory")
def test_pages_become_real_and_the_process_s_own_when_written() -> None:
    before = _resident("RssAnon")
    memory = untouched_zeros((256 * MIB,), torch.uint8)
    assert _resident("RssAnon") - before < 64 * MIB
    memory[: 128 * MIB] = 1
    assert 100 * MIB < _resident("RssAnon") - before < 192 * MIB


def test_what_the_system_refuses_is_a_memory_error() -> None:
    with pytest.raises(MemoryError, match="bytes"):
        untouched_zeros((1 << 60,), torch.uint8)


def _resident(kind: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))
