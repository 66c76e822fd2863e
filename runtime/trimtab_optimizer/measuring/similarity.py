"""How alike the answers of two models are, row by row: the angle between them, and who is near whom."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS: Final = 10
MOST_ROWS: Final = 2000  # among which neighbours are looked for: their number squared is computed
_BLOCK: Final = 256

Rows = NDArray[np.float32]


def mean_cosine(source: Rows, result: Rows) -> float:
    """Return the mean cosine of rows [rows, width]. Two rows of zeros are alike, one of zeros is like no other."""
    total = 0.0
    for start in range(0, len(source), _BLOCK):
        one, other = (rows[start : start + _BLOCK].astype(np.float64) for rows in (source, result))
        lengths = np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)
        product = lengths[0] * lengths[1]
        both_zero = (lengths[0] == 0) & (lengths[1] == 0)
        found = np.divide((one * other).sum(axis=1), product, out=both_zero.astype(np.float64), where=product > 0)
        total += float(np.clip(found, -1, 1).sum())
    return total / len(source)


def recall_of_neighbours(source: Rows, result: Rows) -> float:
    """Return the share of each row's nearest rows by cosine in the source that are also nearest in the result."""
    one, other = _directions(source), _directions(result)
    found = 0
    for start in range(0, len(one), _BLOCK):
        for wanted, got in zip(_nearest(one, start), _nearest(other, start), strict=True):
            found += len(np.intersect1d(wanted, got, assume_unique=True))
    return found / (len(one) * NEIGHBOURS)


def _directions(rows: Rows) -> Rows:
    kept = rows[:MOST_ROWS]
    lengths = np.linalg.norm(kept, axis=1, keepdims=True)
    directions: Rows = np.divide(kept, lengths, out=np.zeros_like(kept), where=lengths > 0)
    return directions


def _nearest(rows: Rows, start: int) -> NDArray[Any]:
    """Return the nearest other rows of a block; of equals the first, so that both models break a tie alike."""
    cosines = rows[start : start + _BLOCK] @ rows.T
    cosines[np.arange(len(cosines)), start + np.arange(len(cosines))] = -np.inf
    return np.argsort(-cosines, axis=1, kind="stable")[:, :NEIGHBOURS]
