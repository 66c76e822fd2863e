"""What this machine lacks to run a node, said before anything is started."""

import os
import shutil
import subprocess
from pathlib import Path

from trimtab_cluster import packages


def lacking(need_node: bool = True) -> list[str]:
    """Return what is missing, each with its mend. Empty where a cluster can run."""
    found = []
    if os.geteuid() != 0:
        return ["root: run as root, or name a cluster of your own with TRIMTAB_CONTEXT"]
    if packages.missing() and not shutil.which("apt-get"):
        found.append(f"Debian packages {' '.join(packages.missing())}: install them, there is no apt-get here")
    if not _can("unshare", "--net", "true"):
        found.append("network namespaces: the container or kernel you are in does not allow them")
    if need_node and not _can("unshare", "--mount", "true"):
        found.append("mounts: the container you are in does not allow them")
    if need_node and not os.access("/sys/fs/cgroup", os.W_OK):
        found.append("cgroups: /sys/fs/cgroup is not writable")
    if need_node and not _supports("overlay"):
        found.append("the overlay file system: load the kernel module `overlay`")
    return found


def _can(*command: str) -> bool:
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True).returncode == 0


def _supports(file_system: str) -> bool:
    subprocess.run(["modprobe", file_system], capture_output=True) if shutil.which("modprobe") else None
    return file_system in Path("/proc/filesystems").read_text()
