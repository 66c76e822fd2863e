"""A tool as a process of its own: how long it takes with its start, and the most memory it holds."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SHOWN = 3000  # characters of what a tool said before it failed


@dataclass(frozen=True, slots=True)
class Run:
    """One process: seconds from its start to its end, the most memory it held, in MiB, and what it said."""

    seconds: float
    peak: float
    said: str = ""


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Run:
    """Run a program whose last word is the most KiB it held; what it wrote is on the disk when the time ends."""
    os.sync()
    started = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    os.sync()
    seconds = time.monotonic() - started
    if done.returncode:
        said = f"{done.stdout}{done.stderr}"[-_SHOWN:]
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{said}")
    return Run(seconds, float(done.stdout.split()[-1]) / 1024, done.stdout)


def peak() -> int:
    """Return KiB of this process alone; getrusage would count those of the parent before it became this one."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


def forget(file: Path) -> None:
    """Take a file out of the page cache; what was not yet written stays in it, so that is done first."""
    os.sync()
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
