"""What a machine must offer. `doctor` shows all of it, and `up` asks the same before it starts anything."""

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trimtab_cluster import cgroups, packages
from trimtab_cluster.errors import ClusterError
from trimtab_cluster.places import cache_dir, clusters_dir
from trimtab_cluster.state import Shape

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Check:
    """A condition, how to mend it, and whether only a node needs it."""

    what: str
    is_met: Callable[[], bool]
    mend: str
    for_node: bool = True


CHECKS = (
    Check("Linux on x86-64 or arm64", lambda: _is_known_machine(), "use such a machine, or a virtual one", False),
    Check(
        "root",
        lambda: os.geteuid() == 0,
        "call it with sudo, or use a cluster of your own: TRIMTAB_CONTEXT names it",
        False,
    ),
    Check(
        "Debian packages",
        lambda: not packages.missing(packages.FOR_IMAGES) or bool(shutil.which("apt-get")),
        "install runc, CNI plugins, nftables, iproute2, docker-registry, openssl, buildah, skopeo, mmdebstrap",
        False,
    ),
    Check(
        "network namespaces and veth links",
        lambda: _works("unshare", "--net", "ip", "link", "add", "name", "va", "type", "veth", "peer", "name", "vb"),
        "a container needs --privileged; a kernel needs CONFIG_NET_NS and CONFIG_VETH",
        False,
    ),
    Check(
        "nftables in a network namespace",
        lambda: not shutil.which("nft") or _works("unshare", "--net", "nft", "add", "table", "ip", "a"),
        "load the kernel module nf_tables",
    ),
    Check(
        f"cgroup controllers {', '.join(cgroups.CONTROLLERS)}, writable",
        lambda: _has_controllers(),
        "mount them at /sys/fs/cgroup; a container needs --privileged and, with version 2, an own cgroup namespace "
        "whose root holds no process",
        False,
    ),
    Check("overlay file system", lambda: _knows_overlay(), "load the kernel module overlay"),
    Check(
        "state and cache do not lie on an overlay themselves",
        lambda: "overlay" not in (_file_system(clusters_dir()), _file_system(cache_dir())),
        "set XDG_STATE_HOME and XDG_CACHE_HOME to folders on a volume",
    ),
    Check("/dev/kmsg, which the kubelet reads", lambda: Path("/dev/kmsg").exists(), "give the container that device"),
    Check("1.5 GiB of free memory", lambda: _free_memory() > 1.5 * _GIB, "end other programs"),
    Check("5 GiB of free disk for state and cache", lambda: _free_disk() > 5 * _GIB, "remove what is not needed"),
)


def failing(shape: Shape) -> list[Check]:
    """Return the conditions that this machine does not meet for a cluster of that shape."""
    return [check for check in CHECKS if (shape.node or not check.for_node) and not check.is_met()]


def require(shape: Shape) -> None:
    """Ask for everything that a cluster of that shape needs.

    Raises:
        ClusterError: it is not all there.
    """
    if lacking := failing(shape):
        raise ClusterError(
            f"this machine lacks: {'; '.join(check.what for check in lacking)}",
            "; ".join(check.mend for check in lacking),
        )


def require_root() -> None:
    """Ask for root alone.

    Raises:
        ClusterError: it is another user.
    """
    if os.geteuid() != 0:
        raise ClusterError("this needs root", "call it with sudo")


def _is_known_machine() -> bool:
    return platform.system() == "Linux" and platform.machine() in ("x86_64", "aarch64")


def _works(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _has_controllers() -> bool:
    root = cgroups.ROOT
    if not os.access(root, os.W_OK):
        return False
    if cgroups.is_version_2():
        return set(cgroups.CONTROLLERS) <= set((root / "cgroup.controllers").read_text().split())
    return all((root / controller / "cgroup.procs").exists() for controller in cgroups.CONTROLLERS)


def _knows_overlay() -> bool:
    return "\toverlay\n" in Path("/proc/filesystems").read_text() or _works("modprobe", "overlay")


def _file_system(folder: Path) -> str:
    """Return the type of the file system that holds `folder`, or would."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    under = [(place, kind) for place, kind in mounts if folder.is_relative_to(place)]
    return max(under, key=lambda mount: len(mount[0]))[1]


def _free_memory() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _free_disk() -> int:
    folders = (
        next(path for path in (wanted, *wanted.parents) if path.is_dir()) for wanted in (clusters_dir(), cache_dir())
    )
    return min(shutil.disk_usage(folder).free for folder in folders)
