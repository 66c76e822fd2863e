"""Tensors in memory: datatypes of the protocol as numpy dtypes, and example inputs where no data is given."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trimtab_api.errors import InvalidPackage
from trimtab_api.package import Datatype, Tensor

Arrays = Mapping[str, NDArray[Any]]

DTYPES: Final[Mapping[Datatype, np.dtype[Any]]] = MappingProxyType(
    {
        Datatype.BOOL: np.dtype(np.bool_),
        Datatype.UINT8: np.dtype(np.uint8),
        Datatype.UINT16: np.dtype(np.uint16),
        Datatype.UINT32: np.dtype(np.uint32),
        Datatype.UINT64: np.dtype(np.uint64),
        Datatype.INT8: np.dtype(np.int8),
        Datatype.INT16: np.dtype(np.int16),
        Datatype.INT32: np.dtype(np.int32),
        Datatype.INT64: np.dtype(np.int64),
        Datatype.FP16: np.dtype(np.float16),
        Datatype.FP32: np.dtype(np.float32),
        Datatype.FP64: np.dtype(np.float64),
    }
)

_ANY_LENGTH = 8  # what an axis of any length gets in an example


def dtype_of(tensor: Tensor) -> np.dtype[Any]:
    """Return the numpy dtype of a tensor. Raises InvalidPackage for BYTES, which no pass can compute with."""
    if tensor.datatype not in DTYPES:
        raise InvalidPackage(f"{tensor.name} has the datatype {tensor.datatype}; tokenize outside the model")
    return DTYPES[tensor.datatype]


_MASK: Final = "attention_mask"


def example_inputs(tensors: tuple[Tensor, ...], rows: int, seed: int) -> dict[str, NDArray[Any]]:
    """Return made-up inputs: normal floats, integers 0 or 1, which all vocabularies have, masks that hide nothing."""
    random = np.random.default_rng(seed)
    return {tensor.name: _example(tensor, rows, random) for tensor in tensors}


def _example(tensor: Tensor, rows: int, random: np.random.Generator) -> NDArray[Any]:
    shape = (rows, *(_ANY_LENGTH if length < 0 else length for length in tensor.shape[1:]))
    dtype = dtype_of(tensor)
    if tensor.name == _MASK:
        return np.ones(shape, dtype)
    if np.issubdtype(dtype, np.floating):
        return random.standard_normal(shape).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)


def relative_difference(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """Return the largest difference of two arrays, relative to the largest expected value where that is above one."""
    if not expected.size:
        return 0.0
    a, b = expected.astype(np.float64), found.astype(np.float64)
    return float(np.abs(a - b).max() / max(1.0, np.abs(a).max()))


def check_shape(what: str, tensor: Tensor, lengths: list[int]) -> None:
    """Raise InvalidPackage where a file has another shape for a tensor than model.yaml; -1 in it is any length."""
    if not fits(tensor.shape, tuple(lengths)):
        raise InvalidPackage(f"{what} {tensor.name} has the shape {lengths}, model.yaml says {list(tensor.shape)}")


def fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Say whether a shape is of the wanted form, where -1 stands for any length."""
    return len(shape) == len(wanted) and all(w < 0 or s == w for s, w in zip(shape, wanted, strict=True))
