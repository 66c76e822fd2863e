"""An inference request as every protocol reads it and every protocol's answer needs it."""

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

from trimtab_runtime.protocol.tensors import Array


@dataclass(slots=True, eq=False)
class Spent:
    """What became of a request's time: seconds in the queue and in the run, and the rows that ran with it."""

    queued: float = 0.0
    ran: float = 0.0
    rows: int = 0
    _since: float = 0.0  # the event loop's own clock counts milliseconds

    def begin(self) -> None:
        """Take down that the request waits for its run."""
        self._since = perf_counter()

    def end(self, ran: float, rows: int) -> None:
        """Take down that a run of so many seconds and rows is over."""
        self.ran, self.rows = ran, rows
        self.queued = max(0.0, perf_counter() - self._since - ran)


class InferRequest(NamedTuple):
    """The arrays by input name. `wanted` maps each requested output to "as raw bytes"; None is all of them.

    `timeout` is how long the caller waits, in seconds; None where it did not say. Where there is a `spent`, it is told
    where the time went. A named tuple, as one is made for each request: a frozen dataclass takes three times as long.
    """

    feeds: Mapping[str, Array]
    id: str | None = None
    wanted: Mapping[str, bool] | None = None
    binary: bool = False
    timeout: float | None = None
    spent: Spent | None = None

    def is_binary(self, output: str) -> bool:
        """Tell whether this output goes back as raw bytes."""
        return self.binary if self.wanted is None else self.wanted[output]
