"""What a model takes: tensors of requests are held against it, and read or refused with what was expected."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any, Final

import numpy as np

from trimtab_api.package import Tensor
from trimtab_runtime.protocol import strings
from trimtab_runtime.protocol.errors import BadRequest
from trimtab_runtime.protocol.tensors import NUMPY_TYPES, Array, from_list


class Input:
    """An input of the model. Its methods raise BadRequest."""

    __slots__ = ("_is_free", "_is_text", "_row", "_tail", "datatype", "declared", "kind", "name")

    def __init__(self, declared: Tensor) -> None:
        self.declared: Final = declared
        self.name: Final = declared.name
        self.datatype: Final = str(declared.datatype)
        self.kind: Final = NUMPY_TYPES[declared.datatype]
        self._is_text = self.kind.kind == "O"
        self._tail = list(declared.shape[1:])
        self._is_free = -1 in self._tail
        self._row = 0 if self._is_free else prod(self._tail)

    @property
    def row_bytes(self) -> int:
        """Return the bytes of a row of numbers of one shape; 0 where rows have no such length."""
        return 0 if self._is_text else self._row * self.kind.itemsize

    def from_numbers(self, datatype: Any, shape: Any, data: Any) -> Array:
        """Return the array of listed data, nested or flat row-major."""
        axes = self._checked(datatype, shape)
        array = from_list(self.declared, data)
        if array.shape == axes:
            return array
        if array.ndim == 1 and array.size == prod(axes):
            return array.reshape(axes)
        given = f"{array.size} elements" if array.ndim == 1 else f"data of shape {list(array.shape)}"
        raise BadRequest(f"input {self.name}: {given} do not fill shape {list(axes)}")

    def from_bytes(self, datatype: Any, shape: Any, data: bytes | memoryview) -> Array:
        """Return the array of raw bytes, without a copy where they are aligned."""
        axes = self._checked(datatype, shape)
        if self._is_text:
            return self._unpacked(axes, data)
        kind = self.kind
        expected = prod(axes) * kind.itemsize
        if len(data) != expected:
            raise BadRequest(f"input {self.name}: {len(data)} bytes do not fill shape {list(axes)}; {expected} would")
        if kind.kind == "b":
            return np.frombuffer(data, np.uint8).astype(kind).reshape(axes)
        array = np.frombuffer(data, kind).reshape(axes)
        return array if array.flags.aligned else array.copy()

    def from_batch(self, rows: Any) -> Array:
        """Return nested rows, in the shape that they have."""
        return self._fitting(from_list(self.declared, rows))

    def from_rows(self, rows: Any) -> Array:
        """Return rows as a person writes them: nested, and a single one without the list around it."""
        array = from_list(self.declared, rows)
        if array.ndim == len(self._tail):
            array = array[np.newaxis]
        return self._fitting(array)

    def _fitting(self, array: Array) -> Array:
        self._checked(self.datatype, list(array.shape))
        return array

    def _checked(self, datatype: Any, shape: Any) -> tuple[int, ...]:
        """Hold datatype and shape against the model's, and return the shape."""
        if datatype != self.datatype:
            raise BadRequest(f"input {self.name}: datatype {datatype}, expected {self.datatype}")
        if not isinstance(shape, list):
            raise BadRequest(f'input {self.name} needs "shape": a list, such as {list(self.declared.shape)}')
        if shape and type(shape[0]) is int and shape[0] > 0:
            if shape[1:] == self._tail and not self._is_free:
                return (shape[0], *self._tail)
            if self._is_free and _fits(shape[1:], self._tail):
                return tuple(shape)
        expected = f"{list(self.declared.shape)} with a batch of at least 1"
        raise BadRequest(f"input {self.name}: shape {shape}, expected {expected}")

    def _unpacked(self, axes: tuple[int, ...], data: bytes | memoryview) -> Array:
        try:
            elements = strings.unpack(data)
        except ValueError as error:
            raise BadRequest(f"input {self.name}: the bytes are not BYTES elements: {error}") from error
        if elements.size != prod(axes):
            raise BadRequest(f"input {self.name}: {elements.size} elements do not fill shape {list(axes)}")
        return elements.reshape(axes)


class Inputs:
    """All inputs of the model, by name."""

    def __init__(self, declared: Sequence[Tensor]) -> None:
        self.by_name: Final = {tensor.name: Input(tensor) for tensor in declared}

    def __len__(self) -> int:
        return len(self.by_name)

    def only(self) -> Input | None:
        """Return the input of a model that has one."""
        return next(iter(self.by_name.values())) if len(self.by_name) == 1 else None

    def mismatch(self, given: Iterable[Any]) -> BadRequest:
        """Return the error of a request that does not name exactly these."""
        return BadRequest(f"inputs {list(given)}, expected {list(self.by_name)}, each once")


def count_rows(feeds: Mapping[str, Array]) -> int:
    """Return the rows of a request. Raises BadRequest where its inputs have different numbers of them."""
    rows = {name: len(array) for name, array in feeds.items()}
    if len(set(rows.values())) != 1:
        raise BadRequest(f"every input needs the same number of rows; given {rows}")
    return next(iter(rows.values()))


def _fits(tail: Sequence[Any], declared: Sequence[int]) -> bool:
    """Compare the axes after the batch; -1 is any length but 0, as rows of nothing would cost their sender nothing."""
    if len(tail) != len(declared):
        return False
    axes = zip(tail, declared, strict=True)
    return all(type(axis) is int and axis > 0 and wanted in (-1, axis) for axis, wanted in axes)
