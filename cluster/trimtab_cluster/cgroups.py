"""A cgroup of its own for each cluster, in every hierarchy of the machine (version 1) or in the one there is (version 2).

Two kubelets under one root would take each other's pods for leftovers and end them.
"""

import time
from pathlib import Path

from trimtab_cluster.places import Cluster
from trimtab_cluster.processes import kill

_ROOT = Path("/sys/fs/cgroup")


def create(cluster: Cluster) -> None:
    """Make the cluster's cgroup in every hierarchy."""
    for folder in _folders(cluster):
        folder.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            # A new cpuset of version 1 is empty, and nothing can run in an empty one.
            target, source = folder / setting, folder.parent / setting
            if target.exists() and source.exists() and not target.read_text().strip():
                target.write_text(source.read_text())


def remove(cluster: Cluster) -> None:
    """End every process in the cluster's cgroups and remove them."""
    for folder in _folders(cluster):
        for _ in range(50):
            pids = [int(line) for file in folder.rglob("cgroup.procs") for line in _lines(file)]
            if not pids:
                break
            kill(pids)
            time.sleep(0.05)
        for child in sorted(folder.rglob("*"), key=lambda path: len(path.parts), reverse=True):
            if child.is_dir():
                _rmdir(child)
        _rmdir(folder)


def _folders(cluster: Cluster) -> list[Path]:
    name = cluster.namespace
    if (_ROOT / "cgroup.controllers").exists():
        return [_ROOT / name]
    hierarchies = (path for path in _ROOT.iterdir() if path.is_dir() and not path.is_symlink())
    return [path / name for path in hierarchies if (path / "cgroup.procs").exists()]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _rmdir(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return
