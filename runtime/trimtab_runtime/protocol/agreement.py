"""Whether two models give the same answers to the same rows."""

from collections.abc import Mapping

import numpy as np

from trimtab_runtime.protocol import strings
from trimtab_runtime.protocol.tensors import Array, datatype_of


def count_agreeing(ours: Mapping[str, Array], theirs: Mapping[str, Array], tolerance: float) -> int:
    """Return the rows on which all of our outputs agree with theirs. Raises KeyError where they lack one.

    Outputs [rows, classes] of numbers agree by their largest element, as an evaluation has it; other floats within
    `tolerance` of the largest magnitude of the row; all else where it is equal. What is no number agrees with nothing.
    """
    rows = [_agreeing(array, theirs[name], tolerance) for name, array in ours.items()]
    return int(np.logical_and.reduce(rows).sum())


def _agreeing(ours: Array, theirs: Array, tolerance: float) -> Array:
    if ours.shape != theirs.shape or datatype_of(ours) != datatype_of(theirs):
        return np.zeros(len(ours), bool)
    mine, other = (_by_rows(array) for array in (ours, theirs))
    is_float, has_classes = ours.dtype.kind == "f", ours.ndim == 2 and ours.shape[1] > 1
    if has_classes and ours.dtype.kind in "iuf":
        alike = mine.argmax(axis=1) == other.argmax(axis=1)
    elif is_float:
        alike = _is_near(mine, other, tolerance)
    else:
        alike = (mine == other).all(axis=1)
    if is_float:
        alike &= np.isfinite(mine).all(axis=1) & np.isfinite(other).all(axis=1)
    return np.asarray(alike)


def _is_near(mine: Array, other: Array, tolerance: float) -> Array:
    with np.errstate(invalid="ignore", over="ignore"):  # what is no number is looked for elsewhere
        apart, largest = (np.abs(array).max(axis=1, initial=0) for array in (mine - other, mine))
        return np.asarray(apart <= tolerance * largest)


def _by_rows(array: Array) -> Array:
    """Return [rows, elements]: text in one form, however the model's runtime has it, and halves as doubles."""
    flat = strings.unpack(strings.pack(array)) if datatype_of(array) == "BYTES" else array
    wide = flat.astype(np.float64) if flat.dtype.kind == "f" else flat
    return wide.reshape(len(array), wide.size // max(1, len(array)))
