"""Which pieces of work are safe on the disk, so that a process that was killed goes on after them.

Pieces are numbered in an order that follows from graph and scheme alone. A piece counts once its bytes were flushed to
the disk, which is done for many pieces at once; what was written since the last flush is done again. A journal of other
work (other weights, another scheme) is thrown away.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from trimtab_optimizer.streaming.carrying import Work
from trimtab_optimizer.streaming.output import Output

FLUSHED: Final = 64 << 20  # bytes of output between two flushes


class Journal:
    """The journal of one output. Threads may note pieces side by side."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key, self._lock = path, key, threading.Lock()
        self.done = self._read()
        self._finished: list[int] = []
        self._flushed_at = 0

    @property
    def goes_on(self) -> bool:
        """Return whether an output that was begun is to be continued."""
        return bool(self.done)

    def left(self, work: list[Work], output: Output) -> list[Work]:
        """Return the pieces that are not done yet, each of which notes itself."""
        if not self.goes_on:
            self._begin()
        return [self._noting(number, piece, output) for number, piece in enumerate(work) if number not in self.done]

    def forget(self) -> None:
        """Remove the journal: the output is complete, and has its name."""
        self._path.unlink(missing_ok=True)

    def _noting(self, number: int, piece: Work, output: Output) -> Callable[[], None]:
        def run() -> None:
            piece()
            with self._lock:
                self._finished.append(number)
                if output.written - self._flushed_at >= FLUSHED:
                    self._flush(output)

        return run

    def _flush(self, output: Output) -> None:
        """Bring the bytes of finished pieces to the disk, and only then their numbers."""
        finished, self._finished = self._finished, []
        self._flushed_at = output.written
        output.flush()
        with self._path.open("a") as file:
            file.write("".join(f"{number}\n" for number in finished))
            file.flush()
            os.fsync(file.fileno())

    def _begin(self) -> None:
        with self._path.open("w") as file:
            file.write(f"{self._key}\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> frozenset[int]:
        """Return the numbers of a journal of the same work; a last line that was cut off is left out."""
        try:
            key, *lines = self._path.read_text().split("\n")
        except (OSError, UnicodeDecodeError):
            return frozenset()
        whole = lines[:-1] if lines else []
        return frozenset(int(line) for line in whole if line.isdigit()) if key == self._key else frozenset()
