"""The k-th smallest of many weights, exactly, in two readings and memory that does not grow with the model.

A positive float has the same order as its bits, so ranks are counted on 32-bit scores: first by their upper half, then,
within the one bucket that holds the rank, by their lower half (a radix selection).
"""

import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from trimtab_optimizer.streaming.carrying import thread_count
from trimtab_optimizer.streaming.kernels import Floats
from trimtab_optimizer.streaming.weights import Weight

Scores = NDArray[np.uint32]
Part = tuple[Weight, range]  # some rows of a weight
_Counted = TypeVar("_Counted")

_TURN: Final = threading.Lock()
_STRIP: Final = 1 << 20  # floats read at once
_BUCKETS: Final = 1 << 16

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)


class Scoring(Protocol):
    """What values are ranked by."""

    def score(self, weight: Weight, rows: range, columns: range, values: Floats) -> Scores:
        """Return a score for each value of a part of a weight, in the same shape."""


@dataclass(frozen=True, slots=True)
class ByMagnitude:
    """Values are ranked by their distance from zero."""

    kind: Literal["magnitude"] = "magnitude"

    def score(self, weight: Weight, rows: range, columns: range, values: Floats) -> Scores:
        """Return the bits of the magnitudes."""
        return values.view(np.uint32) & np.uint32(0x7FFFFFFF)


@dataclass(frozen=True, slots=True)
class ByChance:
    """A rank that follows from seed, name and position alone, so that a second run finds the same.

    `name` is that of the weight where the ranks were first given: it may have another one by now.
    The mix is that of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
    """

    seed: int
    name: str
    kind: Literal["chance"] = "chance"

    def score(self, weight: Weight, rows: range, columns: range, values: Floats) -> Scores:
        """Return scores that know nothing of the values."""
        key = np.uint64(zlib.crc32(f"{self.seed}/{self.name}".encode()) << 20)
        first = np.arange(rows.start, rows.stop, dtype=np.uint64)[:, None] * np.uint64(weight.columns)
        with np.errstate(over="ignore"):
            places: NDArray[np.uint64] = np.add(first, np.arange(columns.start, columns.stop, dtype=np.uint64))
            mixed: NDArray[np.uint64] = (places + key) * _GOLDEN
            mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
            mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
        return (mixed >> np.uint64(32)).astype(np.uint32)


def magnitude(score: int) -> float:
    """Return the magnitude that a score of ByMagnitude stands for."""
    return float(np.array([score], np.uint32).view(np.float32)[0])


def ranked(weights: Sequence[Weight], scoring: Callable[[Weight], Scoring], rank: int) -> int:
    """Return the score at a rank, counted from 0 at the smallest, over all weights together."""
    upper = _histogram(weights, scoring, None)
    bucket = int(np.searchsorted(np.cumsum(upper), rank, side="right"))
    below = int(upper[:bucket].sum())
    lower = _histogram(weights, scoring, bucket)
    return (bucket << 16) | int(np.searchsorted(np.cumsum(lower), rank - below, side="right"))


def count_kept(weight: Weight) -> int:
    """Return how many values of a weight are not zero."""

    def count(own: list[Part]) -> int:
        return sum(int(np.count_nonzero(item.read(rows))) for item, rows in own)

    return sum(_by_threads([weight], count))


def pieces(weight: Weight) -> list[range]:
    """Return the rows of a weight in pieces of about a million values."""
    step = max(1, _STRIP // max(1, weight.columns))
    return [range(start, min(start + step, weight.rows)) for start in range(0, weight.rows, step)]


def _histogram(
    weights: Sequence[Weight], scoring: Callable[[Weight], Scoring], bucket: int | None
) -> NDArray[np.int64]:
    """Count scores by their upper half, or those of one bucket by their lower half; each thread counts for itself."""

    def count(own: list[Part]) -> NDArray[np.int64]:
        found = np.zeros(_BUCKETS, np.int64)
        for weight, rows in own:
            scores = scoring(weight).score(weight, rows, range(weight.columns), weight.read(rows)).reshape(-1)
            lower, upper = scores.view("<u2").reshape(-1, 2).T  # bincount takes half the time for numbers of 16 bits
            found += np.bincount(upper if bucket is None else lower[upper == bucket], minlength=_BUCKETS)
        return found

    total: NDArray[np.int64] = sum(_by_threads(weights, count), np.zeros(_BUCKETS, np.int64))
    return total


def _by_threads(weights: Sequence[Weight], count: Callable[[list[Part]], _Counted]) -> list[_Counted]:
    """Return what each of a few threads made of its own parts of weights.

    Whoever asks, there are only so many such threads: earlier edits are found before, and one caller has its turn.
    """
    for weight in weights:
        weight.find_edits()
    parts, threads = [(weight, rows) for weight in weights for rows in pieces(weight)], thread_count()
    with _TURN, ThreadPoolExecutor(threads) as pool:
        return list(pool.map(count, (parts[n::threads] for n in range(threads))))
