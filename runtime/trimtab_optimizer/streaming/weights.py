"""Tensors of a graph or of a safetensors file, wherever their bytes are: read piece by piece."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trimtab_api.errors import InvalidPackage
from trimtab_optimizer.streaming.direct import read_past_cache
from trimtab_optimizer.streaming.kernels import Floats, to_float32
from trimtab_optimizer.streaming.shards import read_header

STORED: Final[dict[str, np.dtype[Any]]] = {  # what safetensors calls a type
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


_SHIFTS: Final = {np.dtype(np.float32): np.uint32(0), np.dtype(ml_dtypes.bfloat16): np.uint32(16)}


class Edit(Protocol):
    """Other values in the place of those of a weight: a function of each value alone, and of where it is."""

    def apply(self, weight: "Weight", rows: range, columns: range, values: Floats) -> Floats:
        """Return new values for a part of a weight, [rows, columns]."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor seen as [rows, columns]; `file` is None where the graph holds the bytes itself.

    Who reads numbers finds them as `edits` leave them, one after the other; stored bytes are as they are.
    """

    name: str
    dims: tuple[int, ...]
    dtype: np.dtype[Any]
    file: Path | None
    offset: int
    inline: NDArray[Any] | None
    edits: tuple[Edit, ...] = ()

    @property
    def rows(self) -> int:
        return self.dims[0] if self.dims else 1

    @property
    def columns(self) -> int:
        return int(np.prod(self.dims[1:], dtype=np.int64))

    @property
    def count(self) -> int:
        return self.rows * self.columns

    @property
    def size_bytes(self) -> int:
        return self.count * self.dtype.itemsize

    def read(self, rows: range, columns: range | None = None) -> Floats:
        """Return a part as float32. Raises InvalidPackage where the file ends before it or it holds no numbers."""
        wanted = range(self.columns) if columns is None else columns
        return self.as_floats(self._read(rows, wanted), rows, wanted)

    def find_edits(self) -> None:
        """Let all edits be found by now, so that who reads values need not."""
        self.read(range(0))

    def read_bits(self, rows: range, columns: range) -> tuple[NDArray[Any], np.uint32]:
        """Return a part as whole numbers, and how far to shift them to have the bits of its float32 values.

        They stay until this thread reads again. Nobody looks whether these are numbers. Raises InvalidPackage where the
        file ends before.
        """
        if self.edits or self.dtype not in _SHIFTS:
            return self.read(rows, columns).view(np.uint32), np.uint32(0)
        kind, step = f"u{self.dtype.itemsize}", self.columns * self.dtype.itemsize
        raw = None
        if self.file and len(columns) == self.columns:  # nobody reads it again, so it needs no place in the page cache
            raw = read_past_cache(self.file, self.offset + rows.start * step, len(rows) * step)
        stored = self._read(rows, columns) if raw is None else raw.reshape(len(rows), step)
        return stored.view(kind), _SHIFTS[self.dtype]

    def check_numbers(self, are_numbers: bool) -> None:
        """Raise InvalidPackage where values turned out to be no numbers."""
        if not are_numbers:
            raise InvalidPackage(f"tensor {self.name} holds NaN or infinity; train or export the model again")

    def as_floats(self, stored: NDArray[Any], rows: range, columns: range) -> Floats:
        """Return the float32 values of a part that was read. Raises InvalidPackage where some are no numbers."""
        found = to_float32(stored)
        # A sum is no number as soon as one of its parts is none, and much cheaper than to look at each of them.
        with np.errstate(over="ignore", invalid="ignore"):
            self.check_numbers(bool(np.isfinite(found.sum()) or np.isfinite(found).all()))
        for edit in self.edits:
            found = edit.apply(self, rows, columns, found)
        return found

    def read_stored(self, rows: range) -> NDArray[Any]:
        """Return whole rows in the type that they are stored in. Raises InvalidPackage where the file ends before."""
        return self._read(rows, range(self.columns))

    def read_raw(self, start: int, length: int) -> bytes:
        """Return bytes of the tensor as they are. Raises InvalidPackage where the file ends before."""
        if self.inline is not None:
            return self.inline.tobytes()[start : start + length]
        assert self.file
        with self.file.open("rb", buffering=0) as file:
            found = os.pread(file.fileno(), length, self.offset + start)
        if len(found) != length:
            raise self._truncated()
        return found

    def _read(self, rows: range, columns: range) -> NDArray[Any]:
        if self.inline is None:
            return self._read_file(rows, columns)
        return self.inline.reshape(self.rows, self.columns)[rows.start : rows.stop, columns.start : columns.stop]

    def _read_file(self, rows: range, columns: range) -> NDArray[Any]:
        found = np.empty((len(rows), len(columns)), self.dtype)
        whole = len(columns) == self.columns
        pieces = [found] if whole else list(found)
        step = self.columns * self.dtype.itemsize
        start = self.offset + rows.start * step + columns.start * self.dtype.itemsize
        assert self.file
        with self.file.open("rb", buffering=0) as file:
            for number, piece in enumerate(pieces):
                if os.preadv(file.fileno(), [piece.view(np.uint8).data], start + number * step) != piece.nbytes:
                    raise self._truncated()
        return found

    def _truncated(self) -> InvalidPackage:
        name = self.file.name if self.file else ""
        return InvalidPackage(f"{name} ends within tensor {self.name}; copy or export the model again")


Edits = Mapping[str, tuple[Edit, ...]]  # by weight, in the order in which they are made


def weight_of(tensor: TensorProto, folder: Path) -> Weight:
    """Return a float tensor (float32, float16, bfloat16) as a weight."""
    dims, dtype = tuple(tensor.dims), np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    if tensor.data_location != TensorProto.EXTERNAL:
        return Weight(tensor.name, dims, dtype, None, 0, numpy_helper.to_array(tensor))
    return _external(tensor, dims, dtype, folder)


def stored_weights(file: Path) -> dict[str, Weight]:
    """Return the tensors of a safetensors file by name, of types that numpy has. Raises InvalidPackage."""
    begin, header = read_header(file)
    return {
        name: Weight(name, tuple(item["shape"]), STORED[item["dtype"]], file, begin + item["data_offsets"][0], None)
        for name, item in sorted(header.items())
        if item["dtype"] in STORED
    }


def places_in(graph: Path, file: str) -> dict[str, tuple[int, int]]:
    """Return the tensors of a graph that lie in a file beside it, with where each begins and its bytes."""
    entries = {item.name: _entries(item) for item in onnx.load(graph, load_external_data=False).graph.initializer}
    return {
        name: (int(found.get("offset") or 0), int(found.get("length") or 0))
        for name, found in entries.items()
        if found.get("location") == file
    }


def stored_bytes(tensor: TensorProto, folder: Path) -> Weight:
    """Return any tensor as bytes to copy, whatever its type."""
    if tensor.data_location != TensorProto.EXTERNAL:
        held = np.frombuffer(numpy_helper.to_array(tensor).tobytes(), np.uint8)
        return Weight(tensor.name, (1, len(held)), held.dtype, None, 0, held)
    told = int(_entries(tensor).get("length") or 0)
    return _external(tensor, (1, told or _size_of(tensor)), np.dtype(np.uint8), folder)


def _size_of(tensor: TensorProto) -> int:
    """Return the bytes of a tensor by type and shape; types of 4 and 2 bits are packed."""
    count = int(np.prod(tensor.dims, dtype=np.int64))
    name = TensorProto.DataType.Name(tensor.data_type)
    bits = next((bits for ending, bits in (("INT4", 4), ("FLOAT4E2M1", 4), ("INT2", 2)) if name.endswith(ending)), 0)
    return -(-count * bits // 8) if bits else count * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _external(tensor: TensorProto, dims: tuple[int, ...], dtype: np.dtype[Any], folder: Path) -> Weight:
    entries = _entries(tensor)
    return Weight(tensor.name, dims, dtype, folder / entries["location"], int(entries.get("offset") or 0), None)


def _entries(tensor: TensorProto) -> dict[str, str]:
    return {item.key: item.value for item in tensor.external_data}
