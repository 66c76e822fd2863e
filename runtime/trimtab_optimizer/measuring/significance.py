"""How much a share of right rows says: its interval, and whether two models differ on the same rows."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_Z: Final = 1.959963984540054  # of the normal distribution, for 95 %
_DIGITS: Final = 4  # of a p-value that count


@dataclass(frozen=True, slots=True)
class Paired:
    """Rows that only one of two models gets right, and how likely such a split is if neither is better."""

    only_source: int
    only_result: int
    p_value: float


def wilson_interval(right: int, rows: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share (Wilson 1927): never outside 0 to 1, and honest near both."""
    share, spread = right / rows, _Z * _Z / rows
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    low = 0.0 if right == 0 else max(0.0, middle - half)
    return low, 1.0 if right == rows else min(1.0, middle + half)


def mcnemar_exact(only_one: int, only_other: int) -> float:
    """Return the two-sided exact p-value of McNemar's test: how likely so uneven a split of a fair coin is."""
    flips, fewer = only_one + only_other, min(only_one, only_other)
    if only_one == only_other:
        return 1.0
    total = math.lgamma(flips + 1) - flips * math.log(2)
    ways = (total - math.lgamma(k + 1) - math.lgamma(flips - k + 1) for k in range(fewer + 1))
    return min(1.0, 2 * math.fsum(math.exp(way) for way in ways))


def pair(source: NDArray[np.bool_], result: NDArray[np.bool_]) -> Paired:
    """Compare which rows two models got right."""
    only_source, only_result = int((source & ~result).sum()), int((result & ~source).sum())
    return Paired(only_source, only_result, float(f"{mcnemar_exact(only_source, only_result):.{_DIGITS}g}"))
