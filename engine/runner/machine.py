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
    quota, _, period = _read(cgroup / "cpu.max").strip().partition(" ")
    if quota.isdigit() and period.isdigit():
        return max(1, min(cores, int(quota) // int(period)))
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
    """The limit less what is used. Cached files count as used, but make way: a checkpoint just read fills the cache."""
    for limit_name, usage_name, stat_name, prefix in (
        ("memory.max", "memory.current", "memory.stat", ""),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_"),
    ):
        limit, usage = _number(cgroup / limit_name), _number(cgroup / usage_name)
        if limit is not None and usage is not None and limit < UNLIMITED:
            stat = dict(line.split(maxsplit=1) for line in _read(cgroup / stat_name).splitlines() if " " in line)
            cached = sum(int(stat.get(prefix + name, 0)) for name in ("inactive_file", "active_file"))
            return max(0, limit - max(0, usage - cached))
    return UNLIMITED


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None
