"""Requests of very many rows, computed in pieces: between two of them others have their turn, and callers may leave.

Only for models whose rows mix: the others answer a row by what runs with it.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from trimtab_runtime.engine.costs import Costs
from trimtab_runtime.engine.queueing import Outputs, Waiting
from trimtab_runtime.protocol.errors import InferenceFailed
from trimtab_runtime.protocol.request import Spent

_SECONDS_IN_LOOP: Final = 0.0003
_SECONDS_IN_THREAD: Final = 0.003
_WORTH: Final = 2  # pieces, above which a request is taken apart


def piece_rows(costs: Costs, batch_rows: int, most_rows: int, in_loop: bool) -> int:
    """Return the rows that a long request has for a turn: a batch, or more where that takes next to nothing.

    Inside the loop a turn is short for everybody. In a thread it has as many rows as may run together: a trial that
    was over before it came to them does not know what they cost.
    """
    seconds = costs.of(batch_rows)
    if in_loop:
        return batch_rows * max(1, int(_SECONDS_IN_LOOP / seconds))
    return max(most_rows, batch_rows * int(_SECONDS_IN_THREAD / seconds))


def is_long(waiting: Waiting, piece_rows: int) -> bool:
    """Tell whether a request is worth taking apart."""
    return waiting.rows > _WORTH * piece_rows


class Pieces:
    """A request that is taken apart into as many rows as run together. Each piece waits when the one before is done.

    `add` queues a piece; `ended` is called once, whatever became of the request.
    """

    def __init__(
        self, whole: Waiting, rows: int, add: Callable[[Waiting], None], ended: Callable[[Waiting], None]
    ) -> None:
        self._whole = whole
        self._rows = rows
        self._add = add
        self._ended = ended
        self._at = 0
        self._ran = 0.0
        self._found: list[Outputs] = []
        self._spent: Spent | None = None

    def begin(self) -> None:
        """Queue the first piece."""
        self._next()

    def _next(self) -> None:
        whole, start = self._whole, self._at
        self._at = min(start + self._rows, whole.rows)
        feeds = {name: array[start : self._at] for name, array in whole.feeds.items()}
        self._spent = None if whole.spent is None else Spent()
        rows = self._at - start
        self._add(Waiting(feeds, rows, 0, whole.shape, whole.since, whole.deadline, self._done, self._spent))

    def _done(self, result: Outputs | Exception) -> None:
        whole = self._whole
        if isinstance(result, Exception) or whole.left:
            self._end(result)
            return
        self._found.append(result)
        self._ran += self._spent.ran if self._spent is not None else 0.0
        if self._at < whole.rows:
            self._next()
        else:
            self._end(self._joined(result))

    def _joined(self, last: Outputs) -> Outputs | Exception:
        try:
            return {name: np.concatenate([part[name] for part in self._found]) for name in last}
        except Exception as error:  # memory, or an output whose other axes hang on the values
            failed = InferenceFailed("the answers to parts of this request do not make up one; the log has the cause")
            failed.__cause__ = error
            return failed

    def _end(self, result: Outputs | Exception) -> None:
        whole = self._whole
        self._ended(whole)
        if whole.spent is not None:
            whole.spent.end(self._ran, whole.rows)
        if not whole.left:
            whole.done(result)
