"""Drives real clusters by the command, as a person would, and reads what the machine shows of one.

The latter comes from the kernel and the disk and not from the cluster's own records, so it also finds what those miss.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from trimtab_cluster import lifecycle, state
from trimtab_cluster.network import link_names
from trimtab_cluster.places import REPOSITORY, Cluster


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start a cluster command and return at once."""
    return subprocess.Popen(
        [sys.executable, "-m", "trimtab_cluster", *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "cluster")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def remove_leftovers(prefix: str) -> None:
    """Remove the clusters `PREFIX-PID` of sessions that were killed."""
    for cluster in state.all_clusters():
        found = re.fullmatch(rf"{prefix}-(\d+)", cluster.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            lifecycle.down(cluster)


def run(*arguments: str) -> str:
    """Run a cluster command, which must succeed, and return what it prints."""
    process = start(*arguments)
    printed, complaints = process.communicate()
    assert process.returncode == 0, complaints
    return printed


def kubectl(cluster: Cluster, *arguments: str, given: str | None = None) -> str:
    """Run kubectl as the cluster's administrator; it must succeed."""
    program = [str(cluster.bin / "kubectl"), f"--kubeconfig={cluster.kubeconfig}", *arguments]
    done = subprocess.run(program, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def traces_of(cluster: Cluster) -> list[str]:
    """Return processes, mounts, namespaces, links, cgroups and files that bear the cluster's name or path."""
    folders = [Path("/run/netns"), Path("/var/lib/cni/results"), Path("/run/trimtab"), cluster.state.parent]
    files = [str(path) for folder in folders if folder.is_dir() for path in folder.iterdir()]
    symlinks = [f"{path} -> {path.readlink()}" for path in Path("/var/log/containers").glob("*") if path.is_symlink()]
    cgroups = [str(path) for path in Path("/sys/fs/cgroup").rglob(cluster.namespace)]
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    marks = (str(cluster.state), cluster.namespace)
    named = [text for text in (*symlinks, *cgroups, *mounts, *_processes()) if any(mark in text for mark in marks)]
    named += [text for text in files if Path(text).name.startswith((cluster.name, cluster.namespace))]
    return named + [link for link in link_names(cluster) if Path(f"/sys/class/net/{link}").exists()]


def _processes() -> list[str]:
    lines = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            lines.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it ended in between
            continue
    return lines
