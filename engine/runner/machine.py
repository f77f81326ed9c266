"""What the machine gives this process: memory and cores, cgroup limits included. Standard library only."""

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60


def available_memory_bytes(cgroup: Path = CGROUP, meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes that can still be allocated: the machine's available memory, or what the cgroup leaves if that is less."""
    return min(_machine_available(meminfo), _cgroup_left(cgroup))


def num_cores(cgroup: Path = CGROUP) -> int:
    """Cores this process may use: its affinity mask, or its cgroup's quota if that is less; at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = _read(cgroup / "cpu.max").split() or ["max"], None
    if len(quota) == 2 and quota[0] != "max":
        period = int(quota[1])
        return max(1, min(cores, int(quota[0]) // period))
    old_quota, old_period = _number(cgroup / "cpu/cpu.cfs_quota_us"), _number(cgroup / "cpu/cpu.cfs_period_us")
    if old_quota and old_period and old_quota > 0:
        return max(1, min(cores, old_quota // old_period))
    return cores


def _machine_available(meminfo: Path) -> int:
    for line in _read(meminfo).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return 4 << 30


def _cgroup_left(cgroup: Path) -> int:
    for limit_name, usage_name in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit, usage = _number(cgroup / limit_name), _number(cgroup / usage_name)
        if limit is not None and usage is not None and limit < UNLIMITED:
            return max(0, limit - usage)
    return UNLIMITED


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None
