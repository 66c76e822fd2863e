"""Requests that wait: in the order they came, apart by the shape of their rows, since only like rows run together."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Final

from trimtab_runtime.protocol.request import Spent
from trimtab_runtime.protocol.tensors import Array

Feeds = Mapping[str, Array]
Outputs = Mapping[str, Array]
Done = Callable[[Outputs | Exception], None]
Shape = tuple[object, ...]


@dataclass(slots=True, eq=False)
class Waiting:
    """A request that waits. `done` is called once with its outputs or an error, unless its caller `left` before.

    `since` and `deadline` are monotonic times, in seconds; `size` is in bytes.
    """

    feeds: Feeds
    rows: int
    size: int
    shape: Shape
    since: float
    deadline: float | None
    done: Done
    spent: Spent | None = None
    left: bool = False

    def is_late(self, now: float) -> bool:
        """Tell whether nobody waits for the answer any more."""
        return self.deadline is not None and now > self.deadline


class Queue:
    """Waiting requests; may be used from several threads. Shapes take turns, so that none starves another."""

    def __init__(self) -> None:
        self._lines: Final[dict[Shape, deque[Waiting]]] = {}
        self._lock = Lock()

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, waiting: Waiting) -> None:
        """Put a request behind those of its shape."""
        with self._lock:
            line = self._lines.get(waiting.shape)
            if line is None:
                line = self._lines[waiting.shape] = deque()
            line.append(waiting)

    def take(self, rows: int) -> list[Waiting]:
        """Remove the next batch: requests of one shape, the first always, the others while they fit into `rows`."""
        with self._lock:
            if not self._lines:
                return []
            shape = next(iter(self._lines))
            line = self._lines.pop(shape)
            batch = [line.popleft()]
            left = rows - batch[0].rows
            while line and line[0].rows <= left:
                batch.append(line.popleft())
                left -= batch[-1].rows
            if line:
                self._lines[shape] = line  # behind the other shapes
            return batch
