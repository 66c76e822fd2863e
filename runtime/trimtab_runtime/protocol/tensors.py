"""Datatypes of the protocol, and arrays of them.

Numbers are taken only where nothing is lost: 1.5 is no INT64, null is no NaN, "1" is no number.
"""

from collections.abc import Mapping
from contextvars import Context
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from trimtab_api.package import Datatype, Tensor
from trimtab_runtime.protocol import strings
from trimtab_runtime.protocol.errors import BadRequest

Array = npt.NDArray[Any]

# Little-endian, as the raw forms of the protocol are.
NUMPY_TYPES: Final[Mapping[str, np.dtype[Any]]] = {
    Datatype.BOOL: np.dtype("bool"),
    Datatype.UINT8: np.dtype("<u1"),
    Datatype.UINT16: np.dtype("<u2"),
    Datatype.UINT32: np.dtype("<u4"),
    Datatype.UINT64: np.dtype("<u8"),
    Datatype.INT8: np.dtype("<i1"),
    Datatype.INT16: np.dtype("<i2"),
    Datatype.INT32: np.dtype("<i4"),
    Datatype.INT64: np.dtype("<i8"),
    Datatype.FP16: np.dtype("<f2"),
    Datatype.FP32: np.dtype("<f4"),
    Datatype.FP64: np.dtype("<f8"),
    Datatype.BYTES: np.dtype("O"),
}
_DATATYPES: Final = {kind: str(name) for name, kind in NUMPY_TYPES.items()}

_STRICT: Final = Context()  # in which a number that does not fit is an error
_STRICT.run(np.seterr, over="raise")

# The kinds of numpy that may become a kind: b bool, i and u integers, f floats.
_TAKEN: Final = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}


def datatype_of(array: Array) -> str:
    """Return the protocol's name of an array's type."""
    return _DATATYPES.get(array.dtype, "BYTES")


def to_bytes(array: Array) -> bytes:
    """Return the raw form of an array."""
    return strings.pack(array) if array.dtype.kind in "OUS" else array.tobytes()


def from_list(declared: Tensor, data: Any) -> Array:
    """Return lists as an array of the declared type, in the shape they come in. Raises BadRequest."""
    kind = NUMPY_TYPES[declared.datatype]
    try:
        return strings.from_list(data) if kind.kind == "O" else _exactly(data, kind)
    except (ValueError, TypeError, OverflowError, FloatingPointError) as error:
        raise BadRequest(f"input {declared.name}: the data is not {declared.datatype}: {error}") from error


def _exactly(data: Any, kind: np.dtype[Any]) -> Array:
    found = np.asarray(data)
    if found.dtype == kind or found.size == 0:
        return found.astype(kind)
    if found.dtype.kind not in _TAKEN[kind.kind]:
        return _large_integers(data, kind)
    if kind.kind in "iu" and (found.min() < np.iinfo(kind).min or found.max() > np.iinfo(kind).max):
        raise OverflowError("a number is out of range")
    # As `with np.errstate(over="raise")`, which takes as long as all else here.
    cast: Array = _STRICT.copy().run(found.astype, kind)
    return cast


def _large_integers(data: Any, kind: np.dtype[Any]) -> Array:
    """Take integers that numpy reads as floats when not told their type: those above 2**63 beside smaller ones."""
    elements = np.asarray(data, dtype=object)
    if kind.kind not in "iu" or not all(type(element) is int for element in elements.flat):
        raise ValueError("numbers of another kind, or none")
    return elements.astype(kind)
