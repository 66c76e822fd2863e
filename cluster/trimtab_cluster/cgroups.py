"""A cgroup of its own for each cluster: in every hierarchy (version 1), or in the one there is (version 2).

Two reasons. Two kubelets under one root would take each other's pods for leftovers and end them. And membership is
inherited and cannot be shaken off: it tells exactly which processes are the cluster's, pods and orphans among them.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

from trimtab_cluster.errors import ClusterError
from trimtab_cluster.places import Cluster
from trimtab_cluster.processes import kill

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "cpuset", "memory", "pids")  # without which there is no kubelet


def is_version_2(root: Path = ROOT) -> bool:
    """Tell whether the machine has the one hierarchy of version 2."""
    return (root / "cgroup.controllers").exists()


def create(cluster: Cluster) -> None:
    """Make the cluster's cgroups; components go into the child `system`, the kubelet puts pods beside it."""
    for folder in folders(cluster):
        for child in (folder, folder / "system"):
            child.mkdir(exist_ok=True)
            _inherit_cpuset(child)
        if is_version_2():
            # A cgroup of version 2 hands controllers on to its children only when told to, level by level.
            _hand_on_controllers(folder.parent)
            _hand_on_controllers(folder)


def enter(cluster: Cluster) -> None:
    """Put the calling process into the cluster's cgroups."""
    for folder in folders(cluster):
        (folder / "system/cgroup.procs").write_text(str(os.getpid()))


def members(cluster: Cluster) -> set[int]:
    """Return every process in the cluster's cgroups."""
    return {pid for folder in folders(cluster) for pid in _members(folder)}


def remove(cluster: Cluster) -> None:
    """End every process in the cluster's cgroups and remove them."""
    for state in ROOT.glob(f"*/{cluster.namespace}/**/freezer.state"):
        state.write_text("THAWED")  # a frozen process does not even take SIGKILL
    deadline = time.monotonic() + 10
    while (pids := members(cluster)) and time.monotonic() < deadline:
        kill(pids)
    for folder in folders(cluster):
        for child in sorted(folder.rglob("*/"), key=lambda path: len(path.parts), reverse=True):
            _remove_folder(child)
        _remove_folder(folder)


def folders(cluster: Cluster) -> list[Path]:
    """Return the cluster's cgroup in every hierarchy, whether it is there or not."""
    if is_version_2():
        return [ROOT / cluster.namespace]
    hierarchies = (path for path in ROOT.iterdir() if path.is_dir() and not path.is_symlink())
    return [path / cluster.namespace for path in hierarchies if (path / "cgroup.procs").exists()]


def _inherit_cpuset(folder: Path) -> None:
    """Fill a new cpuset of version 1: it is empty, and nothing can run in an empty one."""
    for setting in ("cpuset.cpus", "cpuset.mems"):
        target = folder / setting
        if not is_version_2() and target.exists() and not target.read_text().strip():
            target.write_text((folder.parent / setting).read_text())


def _hand_on_controllers(folder: Path) -> None:
    for controller in (folder / "cgroup.controllers").read_text().split():
        with suppress(OSError):
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")
    if lacking := set(CONTROLLERS) - set((folder / "cgroup.subtree_control").read_text().split()):
        raise ClusterError(
            f"{folder} cannot hand on the controllers {', '.join(sorted(lacking))}",
            "in a container, move its processes out of the root of its cgroup namespace first",
        )


def _members(folder: Path) -> list[int]:
    pids: list[int] = []
    for file in folder.rglob("cgroup.procs"):
        try:
            pids.extend(int(line) for line in file.read_text().split())
        except OSError:  # the cgroup went in between, or is a threaded one
            continue
    return pids


def _remove_folder(folder: Path) -> None:
    deadline = time.monotonic() + 2
    while folder.is_dir():
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:  # busy: the kernel takes a moment after the last process
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)
