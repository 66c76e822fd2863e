"""Datatypes of the protocol, and the check of a tensor against what the model declares.

Numbers are taken only where nothing is lost: 1.5 is no INT64, null is no NaN, "1" is no number.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import prod
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

# The kinds of numpy that may become a kind: b bool, i and u integers, f floats.
_TAKEN: Final = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}


def datatype_of(array: Array) -> str:
    """Return the protocol's name of an array's type."""
    return _DATATYPES.get(array.dtype, "BYTES")


def from_numbers(declared: Tensor, datatype: str, shape: Sequence[int], data: Any) -> Array:
    """Return the array of listed data, nested or flat row-major. Raises BadRequest."""
    check(declared, datatype, shape)
    array = from_list(declared, data)
    if array.shape != tuple(shape) and (array.ndim != 1 or array.size != prod(shape)):
        given = f"{array.size} elements" if array.ndim == 1 else f"data of shape {list(array.shape)}"
        raise BadRequest(f"input {declared.name}: {given} do not fill shape {list(shape)}")
    return array.reshape(tuple(shape))


def from_bytes(declared: Tensor, datatype: str, shape: Sequence[int], data: bytes | memoryview) -> Array:
    """Return the array of raw bytes, without a copy where they are aligned. Raises BadRequest."""
    check(declared, datatype, shape)
    kind = NUMPY_TYPES[declared.datatype]
    if kind.kind == "O":
        return _unpacked(declared, shape, data)
    expected = prod(shape) * kind.itemsize
    if len(data) != expected:
        raise BadRequest(f"input {declared.name}: {len(data)} bytes do not fill shape {list(shape)}; {expected} would")
    if kind.kind == "b":
        return np.frombuffer(data, dtype=np.uint8).astype(kind).reshape(tuple(shape))
    return np.require(np.frombuffer(data, dtype=kind).reshape(tuple(shape)), requirements="A")


def to_bytes(array: Array) -> bytes:
    """Return the raw form of an array."""
    return strings.pack(array) if array.dtype.kind in "OUS" else array.tobytes()


def check(declared: Tensor, datatype: str, shape: Sequence[int]) -> None:
    """Hold datatype and shape against the model's; -1 in the model stands for any length. Raises BadRequest."""
    if datatype != declared.datatype:
        raise BadRequest(f"input {declared.name}: datatype {datatype}, expected {declared.datatype}")
    if not _fits(shape, declared.shape):
        raise BadRequest(
            f"input {declared.name}: shape {list(shape)}, expected {list(declared.shape)} with a batch of at least 1"
        )


def by_name(inputs: Sequence[Tensor], given: Iterable[str]) -> dict[str, Tensor]:
    """Return the declared inputs by name, once it is clear that exactly these were given. Raises BadRequest."""
    declared = {item.name: item for item in inputs}
    names = list(given)
    if sorted(names) != sorted(declared):
        raise BadRequest(f"inputs {names}, expected {list(declared)}, each once")
    return declared


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
    with np.errstate(over="raise"):
        return found.astype(kind)


def _large_integers(data: Any, kind: np.dtype[Any]) -> Array:
    """Take integers that numpy reads as floats when not told their type: those above 2**63 beside smaller ones."""
    elements = np.asarray(data, dtype=object)
    if kind.kind not in "iu" or not all(type(element) is int for element in elements.flat):
        raise ValueError("numbers of another kind, or none")
    return elements.astype(kind)


def _unpacked(declared: Tensor, shape: Sequence[int], data: bytes | memoryview) -> Array:
    try:
        elements = strings.unpack(data)
    except ValueError as error:
        raise BadRequest(f"input {declared.name}: the bytes are not BYTES elements: {error}") from error
    if elements.size != prod(shape):
        raise BadRequest(f"input {declared.name}: {elements.size} elements do not fill shape {list(shape)}")
    return elements.reshape(tuple(shape))


def _fits(shape: Sequence[int], declared: Sequence[int]) -> bool:
    if len(shape) != len(declared) or shape[0] == 0:
        return False
    axes = zip(shape, declared, strict=True)
    return all(type(axis) is int and axis >= 0 and wanted in (-1, axis) for axis, wanted in axes)
