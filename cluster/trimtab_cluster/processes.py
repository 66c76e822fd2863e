"""Start and stop processes so that none is lost and none is mistaken for another.

A pid is remembered with the start time of its process, since pids are used again. What was not recorded (a crash in
between, or children such as the shims of containers) is found by what it cannot shake off: its cgroup, its network
namespace, or a command that was called through the cluster's own folder of links.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from trimtab_cluster.places import Cluster


def start(
    cluster: Cluster,
    name: str,
    command: Sequence[str],
    enter: Callable[[], None],
    environment: Mapping[str, str],
) -> None:
    """Start a component in the cluster's network namespace, in a session of its own, with its log in the state.

    `enter` runs in the child before the command does: it joins the cgroup, so that there is no moment outside it.
    `environment` is all that the command gets: a proxy of the caller's, say, would lead it out of the namespace.
    """
    # nsenter, not `ip netns exec`: the latter mounts another /sys, in which the kubelet finds no cgroups.
    entered = ["nsenter", f"--net=/run/netns/{cluster.namespace}", *command]
    with (cluster.log / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            entered,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=dict(environment),
            preexec_fn=enter,
        )
    (cluster.run / f"{name}.pid").write_text(f"{process.pid} {start_time(process.pid)}")


def start_time(pid: int) -> str:
    """Return when a process started, in clock ticks after boot (field 22 of /proc/PID/stat); empty if it is gone."""
    fields = _stat(pid)
    return fields[19] if fields else ""


def recorded(cluster: Cluster, name: str) -> int | None:
    """Return the pid of a component, if that very process still runs."""
    try:
        pid, _, started = (cluster.run / f"{name}.pid").read_text().partition(" ")
    except OSError:
        return None
    return int(pid) if started and start_time(int(pid)) == started and alive(int(pid)) else None


def components(cluster: Cluster) -> list[str]:
    """Return the names of all components that were ever started."""
    return sorted(file.stem for file in cluster.run.glob("*.pid"))


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that is dead and not yet reaped does not."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    fields = _stat(pid)
    return bool(fields) and fields[0] != "Z"


def strays(cluster: Cluster) -> set[int]:
    """Return every process in the cluster's network namespace or called through its folder of links, save this one."""
    namespace = Path(f"/run/netns/{cluster.namespace}")
    inode = namespace.stat().st_ino if namespace.exists() else None
    mark = f"{cluster.bin}/".encode()
    found = set()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # it may end while it is looked at
            if entry.name.isdigit() and (
                (entry / "ns/net").stat().st_ino == inode or (entry / "cmdline").read_bytes().startswith(mark)
            ):
                found.add(int(entry.name))
    return found - {os.getpid()}


def kill(pids: Iterable[int]) -> None:
    """End processes at once and wait until they are gone."""
    waiting = []
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            waiting.append(pid)
    deadline = time.monotonic() + 5
    while (waiting := [pid for pid in waiting if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.01)


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name, which may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
