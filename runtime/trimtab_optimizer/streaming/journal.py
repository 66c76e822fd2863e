"""Which pieces of work are safe on the disk, so that a process that was killed goes on after them.

Pieces are numbered in an order that follows from graph and scheme alone. A piece counts once its bytes were flushed to
the disk, which is done for many pieces at once; what was written since the last flush is done again. Numbers that were
found by reading weights, such as a threshold, are kept too. A journal of other work (other weights, another scheme) is
thrown away.

A file of lines: the key of the work, then the number of a piece, or a name with what was found under it, as JSON.
"""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from trimtab_optimizer.streaming.carrying import Work
from trimtab_optimizer.streaming.output import Sink

FLUSHED: Final = 64 << 20  # bytes of output between two flushes


class Journal:
    """The journal of one output, beside it. Threads may use it side by side. Without a key, nothing is written."""

    def __init__(self, output: Path, key: str | None) -> None:
        self._key, self._lock = key, threading.Lock()
        self._path = output.with_name(f"{output.name}.journal") if key else None
        self._found: dict[str, int] = {}
        self._done: set[int] = set()
        self._finished: list[int] = []
        self._flushed_at = 0
        if self._path and not self._read(self._path):
            self._begin(self._path)

    @property
    def goes_on(self) -> bool:
        """Return whether an output that was begun is to be continued."""
        return bool(self._done)

    def remember(self, name: str, find: Callable[[], int]) -> int:
        """Return what was found under a name, by an earlier process too."""
        if name not in self._found:
            value = self._found[name] = find()
            self._append([json.dumps([name, value])], wait=False)
        return self._found[name]

    def left(self, work: list[Work], sink: Sink) -> list[Work]:
        """Return the pieces that are not done yet, each of which notes itself."""
        if self._path is None:
            return work
        if self._done and not sink.goes_on:
            self._done = set()
            self._begin(self._path)
        return [self._noting(number, piece, sink) for number, piece in enumerate(work) if number not in self._done]

    def forget(self) -> None:
        """Remove the journal: the output is complete, and has its name."""
        if self._path:
            self._path.unlink(missing_ok=True)

    def _noting(self, number: int, piece: Work, sink: Sink) -> Work:
        def run() -> None:
            piece()
            with self._lock:
                self._finished.append(number)
                is_time = sink.written - self._flushed_at >= FLUSHED
                finished = self._taken(sink) if is_time else []
            if finished:
                sink.flush()
                self._append(list(map(str, finished)), wait=True)

        return run

    def _taken(self, sink: Sink) -> list[int]:
        """Take the pieces that the next flush makes safe."""
        finished, self._finished = self._finished, []
        self._flushed_at = sink.written
        return finished

    def _append(self, lines: list[str], wait: bool) -> None:
        """Add lines, and where that is asked for, wait until they are on the disk."""
        if self._path is None:
            return
        with self._lock, self._path.open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            if wait:
                os.fsync(file.fileno())

    def _begin(self, path: Path) -> None:
        """Begin anew, with what was found: no piece is safe."""
        path.write_text("".join(f"{line}\n" for line in (self._key, *map(json.dumps, self._found.items()))))

    def _read(self, path: Path) -> bool:
        """Read a journal of the same work, if there is one; a last line that was cut off is taken out."""
        try:
            text = path.read_text()
            known, *lines = text.split("\n")[:-1]
            entries = [json.loads(line) for line in lines]
        except (OSError, ValueError):
            return False
        if known != self._key:
            return False
        os.truncate(path, len(text[: text.rindex("\n") + 1].encode()))
        self._done = {entry for entry in entries if isinstance(entry, int)}
        self._found = {entry[0]: entry[1] for entry in entries if isinstance(entry, list)}
        return True
