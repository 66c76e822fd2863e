"""Datatypes of the protocol, and the check of a tensor against what the model declares."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from trimtab_api.package import Datatype, Tensor
from trimtab_runtime.protocol.errors import BadRequest

Array = npt.NDArray[Any]

NUMPY_TYPES: Final[Mapping[str, npt.DTypeLike]] = {
    Datatype.BOOL: np.bool_,
    Datatype.UINT8: np.uint8,
    Datatype.UINT16: np.uint16,
    Datatype.UINT32: np.uint32,
    Datatype.UINT64: np.uint64,
    Datatype.INT8: np.int8,
    Datatype.INT16: np.int16,
    Datatype.INT32: np.int32,
    Datatype.INT64: np.int64,
    Datatype.FP16: np.float16,
    Datatype.FP32: np.float32,
    Datatype.FP64: np.float64,
}


def datatype_of(array: Array) -> str:
    """Return the protocol's name of an array's type."""
    found = next((name for name, kind in NUMPY_TYPES.items() if np.dtype(kind) == array.dtype), Datatype.BYTES)
    return str(found)


def from_numbers(declared: Tensor, datatype: str, shape: Sequence[int], data: Any) -> Array:
    """Return the array of JSON data, nested or flat row-major. Raises BadRequest."""
    check(declared, datatype, shape)
    try:
        array = np.asarray(data, dtype=NUMPY_TYPES[declared.datatype])
    except (ValueError, TypeError, OverflowError) as error:
        raise BadRequest(f"input {declared.name}: the data is not {declared.datatype}: {error}") from error
    return _reshaped(declared, array, shape)


def from_bytes(declared: Tensor, datatype: str, shape: Sequence[int], data: bytes | memoryview) -> Array:
    """Return the array of raw little-endian bytes, without a copy. Raises BadRequest."""
    check(declared, datatype, shape)
    kind = np.dtype(NUMPY_TYPES[declared.datatype])
    if len(data) != prod(shape) * kind.itemsize:
        expected = prod(shape) * kind.itemsize
        raise BadRequest(f"input {declared.name}: {len(data)} bytes do not fill shape {list(shape)}; {expected} would")
    return np.frombuffer(data, dtype=kind).reshape(tuple(shape))


def check(declared: Tensor, datatype: str, shape: Sequence[int]) -> None:
    """Hold datatype and shape against the model's; -1 in the model stands for any length."""
    if datatype != declared.datatype:
        raise BadRequest(f"input {declared.name}: datatype {datatype}, expected {declared.datatype}")
    whole = all(isinstance(axis, int) and not isinstance(axis, bool) and axis >= 0 for axis in shape)
    if not (whole and _fits(shape, declared.shape)):
        expected = f"{list(declared.shape)} with a batch of at least 1"
        raise BadRequest(f"input {declared.name}: shape {list(shape)}, expected {expected}")


def by_name(inputs: Sequence[Tensor], given: Iterable[str]) -> dict[str, Tensor]:
    """Return the declared inputs by name, once it is clear that exactly these were given. Raises BadRequest."""
    declared = {item.name: item for item in inputs}
    names = list(given)
    if sorted(names) != sorted(declared):
        raise BadRequest(f"inputs {names}, expected {list(declared)}, each once")
    return declared


def _reshaped(declared: Tensor, array: Array, shape: Sequence[int]) -> Array:
    if array.size != prod(shape):
        raise BadRequest(f"input {declared.name}: {array.size} elements do not fill shape {list(shape)}")
    return array.reshape(tuple(shape))


def _fits(shape: Sequence[int], declared: Sequence[int]) -> bool:
    if len(shape) != len(declared) or shape[0] == 0:
        return False
    return all(wanted in (-1, axis) for axis, wanted in zip(shape, declared, strict=True))
