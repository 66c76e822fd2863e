"""The server's configuration, from the environment that the operator sets."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    model_dir: Path
    model_name: str | None
    revision: str
    host: str
    rest_port: int
    grpc_port: int | None
    max_batch_size: int
    max_delay_seconds: float
    drain_seconds: float
    max_connection_age_seconds: float
    threads: int


def read_config(environ: Mapping[str, str] = os.environ) -> RuntimeConfig:
    """Read the configuration; every variable has a default fit for a laptop."""
    protocols = environ.get("TRIMTAB_PROTOCOLS", "rest,grpc").split(",")
    return RuntimeConfig(
        model_dir=Path(environ.get("TRIMTAB_MODEL_DIR", "/model")),
        model_name=environ.get("TRIMTAB_MODEL_NAME") or None,
        revision=environ.get("TRIMTAB_REVISION", "1"),
        host=environ.get("TRIMTAB_HOST", "0.0.0.0"),
        rest_port=int(environ.get("TRIMTAB_REST_PORT", "8080")),
        grpc_port=int(environ.get("TRIMTAB_GRPC_PORT", "9000")) if "grpc" in protocols else None,
        max_batch_size=int(environ.get("TRIMTAB_MAX_BATCH_SIZE", "32")),
        max_delay_seconds=float(environ.get("TRIMTAB_MAX_DELAY_MS", "0")) / 1000,
        drain_seconds=float(environ.get("TRIMTAB_DRAIN_SECONDS", "5")),
        max_connection_age_seconds=float(environ.get("TRIMTAB_MAX_CONNECTION_AGE_SECONDS", "30")),
        threads=int(environ.get("TRIMTAB_THREADS", "0")) or _cpu_limit(),
    )


def _cpu_limit() -> int:
    """Return the CPUs that the cgroup allows, rounded up; the machine's count where there is no limit."""
    for read in (_cgroup2, _cgroup1):
        limit = read()
        if limit:
            return limit
    return len(os.sched_getaffinity(0))


def _cgroup2() -> int | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        return None


def _cgroup1() -> int | None:
    folder = Path("/sys/fs/cgroup/cpu")
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return max(1, math.ceil(quota / period)) if quota > 0 else None
    except (OSError, ValueError):
        return None
