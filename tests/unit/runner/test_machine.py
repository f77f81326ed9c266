"""Memory and cores as the machine's own files tell them."""

import os
from pathlib import Path

import pytest

from engine.runner.machine import available_memory_bytes, num_cores

GIB = 1 << 30
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write(folder: Path, **files: object) -> Path:
    for name, value in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return folder


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:       67108864 kB\nMemFree:  1 kB\nMemAvailable:   33554432 kB\nBuffers:  5 kB\n")
    return path


def test_without_a_cgroup(tmp_path: Path, meminfo: Path) -> None:
    assert available_memory_bytes(tmp_path / "none", meminfo) == 32 * GIB


def test_cgroup_v2(tmp_path: Path, meminfo: Path) -> None:
    cgroup = _write(tmp_path / "cgroup", memory_dot_max=8 * GIB, memory_dot_current=3 * GIB)
    assert available_memory_bytes(cgroup, meminfo) == 5 * GIB


def test_cgroup_v2_without_a_limit(tmp_path: Path, meminfo: Path) -> None:
    cgroup = _write(tmp_path / "cgroup", memory_dot_max="max", memory_dot_current=3 * GIB)
    assert available_memory_bytes(cgroup, meminfo) == 32 * GIB


def test_cgroup_v1(tmp_path: Path, meminfo: Path) -> None:
    cgroup = tmp_path / "cgroup"
    _write(cgroup, memory__memory_dot_limit_in_bytes=6 * GIB, memory__memory_dot_usage_in_bytes=GIB)
    assert available_memory_bytes(cgroup, meminfo) == 5 * GIB
    _write(cgroup, memory__memory_dot_limit_in_bytes=9223372036854771712)
    assert available_memory_bytes(cgroup, meminfo) == 32 * GIB


def test_a_limit_above_what_the_machine_has(tmp_path: Path, meminfo: Path) -> None:
    cgroup = _write(tmp_path / "cgroup", memory_dot_max=500 * GIB, memory_dot_current=3 * GIB)
    assert available_memory_bytes(cgroup, meminfo) == 32 * GIB


def test_a_limit_that_is_used_up(tmp_path: Path, meminfo: Path) -> None:
    cgroup = _write(tmp_path / "cgroup", memory_dot_max=GIB, memory_dot_current=GIB + 4096)
    assert available_memory_bytes(cgroup, meminfo) == 0


@pytest.mark.parametrize("version", [1, 2])
def test_cached_files_are_not_in_use(version: int, tmp_path: Path, meminfo: Path) -> None:
    """A checkpoint that was just read fills the page cache, which the cgroup counts and gives back when asked."""
    cgroup = tmp_path / "cgroup"
    if version == 2:
        _write(cgroup, memory_dot_max=8 * GIB, memory_dot_current=8 * GIB)
        stat = f"anon {GIB}\nfile {7 * GIB}\nactive_file {2 * GIB}\ninactive_file {4 * GIB}\nshmem {GIB}"
        _write(cgroup, memory_dot_stat=stat)
    else:
        _write(cgroup, memory__memory_dot_limit_in_bytes=8 * GIB, memory__memory_dot_usage_in_bytes=8 * GIB)
        stat = f"inactive_file 5\nactive_file 6\ntotal_inactive_file {4 * GIB}\ntotal_active_file {2 * GIB}"
        _write(cgroup, memory__memory_dot_stat=stat)
    assert available_memory_bytes(cgroup, meminfo) == 6 * GIB


@pytest.mark.parametrize(
    ("cpu_max", "cores"),
    [("max 100000", CORES), ("100000 100000", 1), ("50000 100000", 1), ("100000000 100000", CORES), ("", CORES)],
)
def test_cores_under_a_quota(cpu_max: str, cores: int, tmp_path: Path) -> None:
    assert num_cores(_write(tmp_path / "cgroup", cpu_dot_max=cpu_max)) == cores


@pytest.mark.parametrize(("quota", "cores"), [(-1, CORES), (100_000, 1), (20_000, 1), (100_000_000, CORES)])
def test_cores_under_an_old_quota(quota: int, cores: int, tmp_path: Path) -> None:
    cgroup = _write(tmp_path / "cgroup", cpu__cpu_dot_cfs_quota_us=quota, cpu__cpu_dot_cfs_period_us=100_000)
    assert num_cores(cgroup) == cores


def test_cores_without_a_cgroup(tmp_path: Path) -> None:
    assert num_cores(tmp_path) == CORES


def test_this_machine() -> None:
    assert available_memory_bytes() > 0
    assert 1 <= num_cores() <= CORES
