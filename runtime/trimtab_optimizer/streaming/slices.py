"""Parts of stored tensors, some indices of each axis: their norms, and a file of what is left, piece by piece."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trimtab_optimizer.streaming.carrying import Work, carry_out
from trimtab_optimizer.streaming.journal import Journal
from trimtab_optimizer.streaming.magnitudes import pieces
from trimtab_optimizer.streaming.output import Sink
from trimtab_optimizer.streaming.shards import encode_header
from trimtab_optimizer.streaming.weights import STORED, Weight

Indices = NDArray[np.int64]

_TYPES: Final = {dtype: name for name, dtype in STORED.items()}


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a stored tensor that are read together, and those of them that are left."""

    read: range
    rows: Indices


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
        parts = (np.abs(self._read(piece, self.weight.read)) ** power for piece in self.pieces())
        others = tuple(other for other in range(len(self.dims)) if other != axis)
        sums = [part.sum(others, np.float64) for part in parts]
        total = np.concatenate(sums) if axis == 0 else np.sum(sums, axis=0)
        return total.astype(np.float32)

    def pieces(self) -> list[Piece]:
        """Return the parts that are read in one piece each; without those of which nothing is left."""
        rows = self._places(0) if self.weight.dims else np.zeros(1, np.int64)
        found = [
            Piece(part, rows[slice(*np.searchsorted(rows, (part.start, part.stop)))]) for part in pieces(self.weight)
        ]
        return [piece for piece in found if len(piece.rows)]

    def stored(self, piece: Piece) -> NDArray[Any]:
        """Return what is left of a part, in the type that it is stored in. Raises InvalidPackage."""
        return self._read(piece, self.weight.read_stored)

    def _read(self, piece: Piece, read: Callable[[range], NDArray[Any]]) -> NDArray[Any]:
        values = read(piece.read).reshape(len(piece.read), *self.weight.dims[1:])
        return self._cut(values[piece.rows - piece.read.start])

    def _places(self, axis: int) -> Indices:
        return self.kept.get(axis, np.arange(self.weight.dims[axis]))

    def _cut(self, values: NDArray[Any]) -> NDArray[Any]:
        for axis, places in self.kept.items():
            if axis:
                values = values.take(places, axis)
        return values


def write_slices(slices: Mapping[str, Slice], target: Path, key: str | None = None) -> None:
    """Write a safetensors file of what is left of each tensor, by name. Raises InvalidPackage for a file cut off.

    With a `key`, that of the work, a second call goes on where one that was killed was.
    """
    begin, offsets = _layout(slices)
    journal = Journal(target, f"{key} {_digest(begin, slices)}" if key else None)
    with Sink(target, journal.goes_on) as sink:
        work = [piece for name, part in slices.items() for piece in _work(part, offsets[name], sink)]
        sink.expect(len(begin) + sum(part.size_bytes for part in slices.values()))
        carry_out(journal.left([partial(sink.put, 0, begin), *work], sink))
    journal.forget()


def _layout(slices: Mapping[str, Slice]) -> tuple[bytes, dict[str, int]]:
    """Return the beginning of a safetensors file, and where in the file each tensor begins."""
    header: dict[str, Any] = {}
    end = 0
    for name, part in slices.items():
        offsets = [end, end + part.size_bytes]
        header[name] = {"dtype": _TYPES[part.weight.dtype], "shape": list(part.dims), "data_offsets": offsets}
        end += part.size_bytes
    begin = encode_header(header)
    return begin, {name: len(begin) + item["data_offsets"][0] for name, item in header.items()}


def _digest(begin: bytes, slices: Mapping[str, Slice]) -> str:
    """Return what tells slices from others, of the same shapes too."""
    found = hashlib.sha256(begin)
    for part in slices.values():
        for axis, places in sorted(part.kept.items()):
            found.update(f"{axis}:{places.tolist()}".encode())
    return found.hexdigest()


def _work(part: Slice, offset: int, sink: Sink) -> Iterator[Work]:
    """Yield the pieces of work that write what is left of a tensor."""
    row = part.size_bytes // max(1, part.dims[0]) if part.dims else part.size_bytes
    for piece in part.pieces():
        yield partial(_fill, part, piece, offset, sink)
        offset += len(piece.rows) * row


def _fill(part: Slice, piece: Piece, offset: int, sink: Sink) -> None:
    sink.put(offset, part.stored(piece))
