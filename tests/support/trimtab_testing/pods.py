"""The processes of pods on this machine's node, as this machine numbers them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def processes_of(pods: Sequence[dict[str, Any]], program: str) -> list[int]:
    """Return the processes of pods whose command line names a program."""
    uids = [pod["metadata"]["uid"] for pod in pods]
    names = [*uids, *(uid.replace("-", "_") for uid in uids)]  # as the two cgroup drivers write them
    return [pid for pid, cgroups in _processes(program.encode()) if any(name in cgroups for name in names)]


def _processes(program: bytes) -> Iterator[tuple[int, str]]:
    """Yield every process of a program with its cgroups, which name its pod."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if program in (entry / "cmdline").read_bytes():
                yield int(entry.name), (entry / "cgroup").read_text()
        except OSError:  # it ended in between
            continue
