"""Start and stop processes so that none is lost and none is mistaken for another.

A pid is remembered with the start time of its process, since pids are used again. Processes that were not recorded
(a crash in between, or children such as container shims) are found by the state folder in their command line.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from trimtab_cluster.places import Cluster


def start(cluster: Cluster, name: str, command: Sequence[str], environment: dict[str, str] | None = None) -> None:
    """Start a component in the cluster's network namespace, in a session of its own, with its log in the state."""
    # nsenter, not `ip netns exec`: the latter mounts another /sys, in which the kubelet finds no cgroups.
    entered = ["nsenter", f"--net=/run/netns/{cluster.namespace}", *command]
    with (cluster.log / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            entered, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment
        )
    (cluster.run / f"{name}.pid").write_text(f"{process.pid} {start_time(process.pid)}")


def start_time(pid: int) -> str:
    """Return the start time of a process in clock ticks after boot (field 22 of /proc/PID/stat), empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def recorded(cluster: Cluster, name: str) -> int | None:
    """Return the pid of a component, if that very process still runs."""
    try:
        pid, _, started = (cluster.run / f"{name}.pid").read_text().partition(" ")
    except OSError:
        return None
    return int(pid) if started and start_time(int(pid)) == started else None


def strays(cluster: Cluster) -> list[int]:
    """Return every process that names the cluster's state folder in its command line, this one apart."""
    mark = f"{cluster.state}/".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and mark in _command_line(entry):
            found.append(int(entry.name))
    return found


def stop(pids: Iterable[int], seconds: float) -> None:
    """Ask processes to end, and kill those that are still there after `seconds`."""
    waiting = [pid for pid in pids if _signal(pid, signal.SIGTERM)]
    deadline = time.monotonic() + seconds
    while waiting and time.monotonic() < deadline:
        time.sleep(0.05)
        waiting = [pid for pid in waiting if _alive(pid)]
    kill(waiting)


def kill(pids: Iterable[int]) -> None:
    """End processes at once and wait until they are gone."""
    waiting = [pid for pid in pids if _signal(pid, signal.SIGKILL)]
    deadline = time.monotonic() + 10
    while waiting and time.monotonic() < deadline:
        time.sleep(0.02)
        waiting = [pid for pid in waiting if _alive(pid)]


def _signal(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _alive(pid: int) -> bool:
    """Tell whether a process runs; one that is dead and not yet reaped does not."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _command_line(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return b""
