"""Parts of stored tensors, some indices of each axis: their norms, and a file of what is left, piece by piece."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trimtab_optimizer.streaming.carrying import carry_out
from trimtab_optimizer.streaming.magnitudes import pieces
from trimtab_optimizer.streaming.output import write_all
from trimtab_optimizer.streaming.shards import encode_header
from trimtab_optimizer.streaming.weights import STORED, Weight

Indices = NDArray[np.int64]

_TYPES: Final = {dtype: name for name, dtype in STORED.items()}


@dataclass(frozen=True, slots=True)
class Slice:
    """What is left of a stored tensor. `kept` has ascending indices by axis; an axis that it lacks is whole."""

    weight: Weight
    kept: Mapping[int, Indices] = field(default_factory=dict)

    @property
    def dims(self) -> tuple[int, ...]:
        """Return the shape of what is left."""
        return tuple(len(self.kept[axis]) if axis in self.kept else n for axis, n in enumerate(self.weight.dims))

    @property
    def size_bytes(self) -> int:
        """Return the bytes of what is left."""
        return int(np.prod(self.dims, dtype=np.int64)) * self.weight.dtype.itemsize

    def without(self, axis: int, places: Indices) -> "Slice":
        """Return the slice of which only some places of an axis are left."""
        return replace(self, kept={**self.kept, axis: self._places(axis)[places]})

    def is_same_as(self, other: "Slice") -> bool:
        """Tell whether the same is left of the same tensor."""
        axes = range(len(self.dims))
        return self.weight == other.weight and all(np.array_equal(self._places(n), other._places(n)) for n in axes)

    def norms(self, axis: int, power: int) -> NDArray[np.float32]:
        """Return the sums of magnitudes, raised to a power, for each index of an axis.

        Raises InvalidPackage for a file that is cut off or holds values that are no numbers.
        """
        parts = (np.abs(values) ** power for values in self._parts(self.weight.read))
        others = tuple(other for other in range(len(self.dims)) if other != axis)
        sums = [part.sum(others, np.float64) for part in parts]
        total = np.concatenate(sums) if axis == 0 else np.sum(sums, axis=0)
        return total.astype(np.float32)

    def stored(self) -> Iterator[NDArray[Any]]:
        """Yield what is left in the type that it is stored in, some rows at a time. Raises InvalidPackage."""
        return self._parts(self.weight.read_stored)

    def _parts(self, read: Callable[[range], NDArray[Any]]) -> Iterator[NDArray[Any]]:
        rows = self._places(0) if self.weight.dims else np.zeros(1, np.int64)
        for piece in pieces(self.weight):
            first, end = np.searchsorted(rows, (piece.start, piece.stop))
            if first < end:
                values = read(piece).reshape(len(piece), *self.weight.dims[1:])
                yield self._cut(values[rows[first:end] - piece.start])

    def _places(self, axis: int) -> Indices:
        return self.kept.get(axis, np.arange(self.weight.dims[axis]))

    def _cut(self, values: NDArray[Any]) -> NDArray[Any]:
        for axis, places in self.kept.items():
            if axis:
                values = values.take(places, axis)
        return values


def write_slices(slices: Mapping[str, Slice], target: Path) -> None:
    """Write a safetensors file of what is left of each tensor, by name. Raises InvalidPackage for a file cut off."""
    header: dict[str, Any] = {}
    end = 0
    for name, part in slices.items():
        offsets = [end, end + part.size_bytes]
        header[name] = {"dtype": _TYPES[part.weight.dtype], "shape": list(part.dims), "data_offsets": offsets}
        end += part.size_bytes
    begin = encode_header(header)
    with target.open("wb") as file:
        file.write(begin)
        file.truncate(len(begin) + end)
    offsets = [len(begin) + item["data_offsets"][0] for item in header.values()]
    carry_out([partial(_fill, part, target, offset) for part, offset in zip(slices.values(), offsets, strict=True)])


def _fill(part: Slice, target: Path, offset: int) -> None:
    with target.open("r+b", buffering=0) as file:
        for values in part.stored():
            write_all(file.fileno(), np.ascontiguousarray(values).reshape(-1).view(np.uint8).data, offset)
            offset += values.nbytes
