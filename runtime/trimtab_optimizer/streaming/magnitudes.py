"""The k-th smallest of many weights, exactly, in two readings and memory that does not grow with the model.

A positive float has the same order as its bits, so ranks are counted on 32-bit scores: first by their upper half, then,
within the one bucket that holds the rank, by their lower half (a radix selection).
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trimtab_optimizer.streaming.carrying import thread_count
from trimtab_optimizer.streaming.kernels import Floats
from trimtab_optimizer.streaming.weights import Weight

Scores = NDArray[np.uint32]
Scoring = Callable[[Weight, int, Floats], Scores]  # weight, position of the first value, values -> one score each

_STRIP: Final = 1 << 20  # floats read at once
_BUCKETS: Final = 1 << 16

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)


def by_magnitude(weight: Weight, start: int, values: Floats) -> Scores:
    """Score values by their distance from zero."""
    return values.reshape(-1).view(np.uint32) & np.uint32(0x7FFFFFFF)


def by_chance(seed: int) -> Scoring:
    """Return a scoring that follows from seed, name and position alone, so that a second run finds the same.

    The mix is that of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
    """

    def score(weight: Weight, start: int, values: Floats) -> Scores:
        key = np.uint64(zlib.crc32(f"{seed}/{weight.name}".encode()) << 20)
        with np.errstate(over="ignore"):
            mixed = (np.arange(start, start + values.size, dtype=np.uint64) + key) * _GOLDEN
            mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
            mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
        return (mixed >> np.uint64(32)).astype(np.uint32)

    return score


def magnitude(score: int) -> float:
    """Return the magnitude that a score of by_magnitude stands for."""
    return float(np.array([score], np.uint32).view(np.float32)[0])


def strips(weight: Weight) -> Iterator[tuple[int, Floats]]:
    """Yield a weight piece by piece, with the position of each piece's first value."""
    for rows in pieces(weight):
        yield rows.start * weight.columns, weight.read(rows)


def ranked(weights: Sequence[Weight], scoring: Scoring, rank: int) -> int:
    """Return the score at a rank, counted from 0 at the smallest, over all weights together."""
    parts = [(weight, rows) for weight in weights for rows in pieces(weight)]
    upper = _histogram(parts, scoring, None)
    bucket = int(np.searchsorted(np.cumsum(upper), rank, side="right"))
    below = int(upper[:bucket].sum())
    lower = _histogram(parts, scoring, bucket)
    return (bucket << 16) | int(np.searchsorted(np.cumsum(lower), rank - below, side="right"))


def pieces(weight: Weight) -> list[range]:
    """Return the rows of a weight in pieces of about a million values."""
    step = max(1, _STRIP // max(1, weight.columns))
    return [range(start, min(start + step, weight.rows)) for start in range(0, weight.rows, step)]


def _histogram(parts: list[tuple[Weight, range]], scoring: Scoring, bucket: int | None) -> NDArray[np.int64]:
    """Count scores by their upper half, or those of one bucket by their lower half; each thread counts for itself."""

    def count(own: list[tuple[Weight, range]]) -> NDArray[np.int64]:
        found = np.zeros(_BUCKETS, np.int64)
        for weight, rows in own:
            scores = scoring(weight, rows.start * weight.columns, weight.read(rows))
            halves = scores >> np.uint32(16)
            if bucket is not None:
                halves = scores[halves == bucket] & np.uint32(0xFFFF)
            found += np.bincount(halves, minlength=_BUCKETS)
        return found

    threads = thread_count()
    with ThreadPoolExecutor(threads) as pool:
        total: NDArray[np.int64] = sum(
            pool.map(count, (parts[n::threads] for n in range(threads))), np.zeros(_BUCKETS, np.int64)
        )
    return total
