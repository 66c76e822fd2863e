"""How long a run takes by its rows, and what follows: how many rows to run together, how long a queue will take."""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Final

_WORTH: Final = 0.95  # of the best rate: more rows for less than that only make callers wait
_LEARNING: Final = 0.1  # weight of the latest run in what is known of the machine's pace


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of runs of 1 and more rows, ascending, as they were measured; at least one."""

    rows: tuple[int, ...]
    seconds: tuple[float, ...]

    def of(self, rows: int) -> float:
        """Return the seconds of a run: between measured sizes on the line through them, above them in proportion."""
        at = bisect_left(self.rows, rows)
        if at == len(self.rows):
            return self.seconds[-1] * rows / self.rows[-1]
        if at == 0 or self.rows[at] == rows:
            return self.seconds[at]
        low, high = self.rows[at - 1], self.rows[at]
        share = (rows - low) / (high - low)
        return self.seconds[at - 1] + share * (self.seconds[at] - self.seconds[at - 1])

    def useful_rows(self) -> int:
        """Return the smallest batch whose rate is about the best one."""
        rates = [rows / seconds for rows, seconds in zip(self.rows, self.seconds, strict=True)]
        return next(rows for rows, rate in zip(self.rows, rates, strict=True) if rate >= _WORTH * max(rates))


class Forecast:
    """Predicts how long rows take: as it was measured, times the pace of the runs that were seen since.

    A queue may take longer than its rows in whole batches would: rows of other shapes run apart. That is learned from
    runs that left others waiting; a lone run of one row says nothing of it.
    """

    def __init__(self, costs: Costs, batch_rows: int) -> None:
        self._costs = costs
        self._batch_rows = batch_rows
        self._batch_seconds = costs.of(batch_rows)
        self._pace = self._spread = 1.0

    def learn(self, rows: int, seconds: float, left_others: bool = False) -> None:
        """Take a run into account, and whether others waited that it could not take along."""
        self._pace += _LEARNING * (seconds / self._costs.of(rows) - self._pace)
        if left_others:
            in_a_batch = rows * self._batch_seconds / self._batch_rows
            self._spread += _LEARNING * (max(1.0, self._costs.of(rows) / in_a_batch) - self._spread)

    def of_run(self, rows: int) -> float:
        """Return the seconds of one run."""
        return self._pace * self._costs.of(rows)

    def of_queue(self, rows: int) -> float:
        """Return the seconds until so many rows are computed: by then, others will have filled the last batch."""
        seconds = self._costs.of(rows) if rows <= self._batch_rows else self._batches(rows)
        return self._pace * self._spread * seconds

    def _batches(self, rows: int) -> float:
        return self._batch_seconds * -(-rows // self._batch_rows)
