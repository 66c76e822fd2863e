"""How many CPUs this container may use: what the cgroup allows, not what the machine has."""

import math
import os
from pathlib import Path


def available_cpus(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the limit of the cgroup (version 2, then 1), rounded up; the CPUs to run on where there is no limit."""
    limit = _version2(cgroups) or _version1(cgroups / "cpu")
    present = len(os.sched_getaffinity(0))
    return min(limit, present) if limit else present


def _version2(folder: Path) -> int | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else _rounded(int(quota), int(period))
    except (OSError, ValueError):
        return None


def _version1(folder: Path) -> int | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return _rounded(quota, int((folder / "cpu.cfs_period_us").read_text())) if quota > 0 else None
    except (OSError, ValueError):
        return None


def _rounded(quota: int, period: int) -> int:
    return max(1, math.ceil(quota / period))
