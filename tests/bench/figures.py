"""Figures with their spread, and tables of them."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """What a benchmark found: a line on how it was done, the head, and rows of text; `kept` if it is for the page."""

    how: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    kept: bool = True

    def to_markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [self.head, ("---",) * len(self.head), *self.rows]
        return "\n".join([self.how, "", *(f"| {' | '.join(line)} |" for line in lines)])


def spread(values: Sequence[float], unit: str = "", digits: int = 2) -> str:
    """Return the median with the smallest and the largest value."""
    shown = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    median, low, high = shown
    return f"{median}{unit} ({low} to {high})"


def ratios(values: Sequence[float], of: Sequence[float]) -> list[float]:
    """Return the ratio of each pair, which was measured side by side."""
    return [value / base for value, base in zip(values, of, strict=True)]
