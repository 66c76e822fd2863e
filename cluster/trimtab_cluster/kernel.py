"""Kernel settings that a kubelet changes for the whole machine: noted before the first one, put back after the last.

Among them: memory is overcommitted, and the machine restarts by itself after an oops. A test must not leave that.
"""

import json
from contextlib import suppress
from pathlib import Path

from trimtab_cluster.locks import locked
from trimtab_cluster.places import RUNTIME, Cluster

_SETTINGS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
_SYSCTL = Path("/proc/sys")


def remember(cluster: Cluster) -> None:
    """Write the settings down, unless another cluster has done so."""
    with locked(RUNTIME / ".kernel.lock"):
        _mark(cluster).touch()
        if not _remembered().exists():
            values = {name: (_SYSCTL / name).read_text() for name in _SETTINGS if (_SYSCTL / name).exists()}
            _remembered().write_text(json.dumps(values))


def restore(cluster: Cluster) -> None:
    """Put the settings back if `cluster` was the last one on this machine."""
    with locked(RUNTIME / ".kernel.lock"):
        _mark(cluster).unlink(missing_ok=True)
        if not _remembered().exists() or any(RUNTIME.glob("*.kernel")):
            return
        for name, value in json.loads(_remembered().read_text()).items():
            with suppress(OSError):  # a container may not write all of them; its kubelet could not either
                (_SYSCTL / name).write_text(value)
        _remembered().unlink()


def _remembered() -> Path:
    return RUNTIME / ".kernel.json"


def _mark(cluster: Cluster) -> Path:
    return RUNTIME / f"{cluster.name}.kernel"
