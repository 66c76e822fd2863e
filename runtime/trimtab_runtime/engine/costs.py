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
    """Predicts how long rows take. Runs that were seen correct it: for a slower machine, and for smaller batches."""

    def __init__(self, costs: Costs, batch_rows: int) -> None:
        self._row = costs.of(batch_rows) / batch_rows

    def learn(self, rows: int, seconds: float) -> None:
        """Take a run into account."""
        self._row += _LEARNING * (seconds / rows - self._row)

    def seconds(self, rows: int) -> float:
        """Return the seconds until this many rows are computed."""
        return rows * self._row
