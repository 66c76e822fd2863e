"""Whether two models give the same answers to the same rows."""

from collections.abc import Mapping

import numpy as np

from trimtab_runtime.protocol import strings
from trimtab_runtime.protocol.tensors import Array, datatype_of


def count_agreeing(ours: Mapping[str, Array], theirs: Mapping[str, Array], tolerance: float) -> int:
    """Return the rows on which all of our outputs agree with theirs. Raises KeyError where they lack one.

    Outputs [rows, classes] agree by their largest element, as an evaluation has it; other floats within `tolerance` of
    the largest magnitude of the row; all else where it is equal. What is no number agrees with nothing.
    """
    rows = [_agreeing(array, theirs[name], tolerance) for name, array in ours.items()]
    return int(np.logical_and.reduce(rows).sum())


def _agreeing(ours: Array, theirs: Array, tolerance: float) -> Array:
    if ours.shape != theirs.shape or datatype_of(ours) != datatype_of(theirs):
        return np.zeros(len(ours), bool)
    mine, other = (_by_rows(array) for array in (ours, theirs))
    if ours.dtype.kind != "f":
        return np.asarray((mine == other).all(axis=1))
    finite = np.isfinite(mine).all(axis=1) & np.isfinite(other).all(axis=1)
    if ours.ndim == 2 and ours.shape[1] > 1:
        return np.asarray(finite & (mine.argmax(axis=1) == other.argmax(axis=1)))
    with np.errstate(invalid="ignore"):  # what is no number is told by `finite`
        apart, largest = np.abs(mine - other).max(axis=1), np.abs(mine).max(axis=1)
        return np.asarray(finite & (apart <= tolerance * largest))


def _by_rows(array: Array) -> Array:
    """Return [rows, elements]; text as bytes, however the model's runtime has it."""
    flat = strings.unpack(strings.pack(array)) if datatype_of(array) == "BYTES" else array
    return flat.reshape(len(array), -1)
