"""Where new tensors go: each has its place in one file before anything is computed, so pieces come in any order."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from trimtab_optimizer.streaming.direct import open_direct, whole_pages, write_pages

_ALIGNMENT: Final = 4096  # of each tensor, so that a server can map it
_LONG: Final = 256 << 20  # bytes of a file that is written past the cache
_LARGEST_INLINE: Final = 16 << 20  # what is smaller goes into the graph itself, as one file


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor to be written: its ONNX type, shape, and where its bytes begin."""

    name: str
    data_type: int
    dims: tuple[int, ...]
    offset: int
    length: int


@dataclass
class Sink:
    """A file that threads write side by side, piece by piece. A context: leaving it waits until all is on the disk."""

    path: Path
    goes_on: bool = False  # keep what an earlier process wrote
    written: int = 0  # by this process, in bytes
    _descriptor: int = -1
    _direct: int | None = None

    def __enter__(self) -> Self:
        self.goes_on = self.goes_on and self.path.exists()
        begin = 0 if self.goes_on else os.O_TRUNC
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | begin, 0o644)
        return self

    def expect(self, length: int) -> None:
        """Say how long the file will be: a long one is written past the cache, of which it would take much."""
        if length >= _LONG and self._direct is None:
            self._direct = open_direct(self.path, os.O_WRONLY)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            os.fsync(self._descriptor)
        os.close(self._descriptor)
        if self._direct is not None:
            os.close(self._direct)

    def put(self, offset: int, values: NDArray[Any] | bytes) -> None:
        """Write a piece; the whole pages of a large one past the cache."""
        view = np.frombuffer(values, np.uint8) if isinstance(values, bytes) else np.ascontiguousarray(values)
        view = view.reshape(-1).view(np.uint8)
        pages = range(0) if self._direct is None else whole_pages(offset, len(view))
        done = pages.start
        if self._direct is not None and pages:
            done += write_pages(self._direct, offset + pages.start, view[pages.start : pages.stop])
        _write(self._descriptor, offset, view[: pages.start])
        _write(self._descriptor, offset + done, view[done:])
        self.written += len(view)

    def flush(self) -> None:
        """Wait until all that was written is on the disk."""
        os.fsync(self._descriptor)


@dataclass
class Output(Sink):
    """The file of new tensors beside a graph. Where all of them fit into the graph itself, no file is left."""

    _places: list[Place] = field(default_factory=list)
    _end: int = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if error is None and self.is_inline:
            self.path.unlink()

    def reserve(self, name: str, data_type: int, dims: tuple[int, ...], length: int) -> Place:
        """Return the place of a new tensor."""
        start = -(-self._end // _ALIGNMENT) * _ALIGNMENT
        place = Place(name, data_type, dims, start, length)
        self._places.append(place)
        self._end = start + length
        self.expect(self._end)
        return place

    def write(self, place: Place, position: int, values: NDArray[Any] | bytes) -> None:
        """Write a piece at a position within its tensor."""
        self.put(place.offset + position, values)

    def tensors(self) -> list[TensorProto]:
        """Return the new tensors: within the graph where all of them are small, else by their place in the file."""
        return [self._tensor(place) for place in self._places]

    @property
    def is_inline(self) -> bool:
        return self._end <= _LARGEST_INLINE

    def _tensor(self, place: Place) -> TensorProto:
        tensor = TensorProto(name=place.name, data_type=place.data_type, dims=place.dims)
        if self.is_inline:
            tensor.raw_data = os.pread(self._descriptor, place.length, place.offset)
            return tensor
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.path.name), ("offset", place.offset), ("length", place.length)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor


def _write(descriptor: int, offset: int, values: NDArray[np.uint8]) -> None:
    """Write a piece, however many calls that takes."""
    while len(values):
        written = os.pwrite(descriptor, values.data, offset)
        values, offset = values[written:], offset + written
