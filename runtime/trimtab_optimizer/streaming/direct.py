"""Large files past the page cache: no memory and little time for bytes that nobody reads again soon.

The system moves such bytes between the disk and our memory itself (O_DIRECT), and copies nothing. That takes whole
pages, at places of the file and of memory that are multiples of a page; so bytes go by way of a buffer, which each
thread has for itself. Where a file system has no such thing, callers read and write as always.
"""

import mmap
import os
import threading
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

Raw = NDArray[np.uint8]

_PAGE: Final = 4096
_SMALLEST: Final = 1 << 20  # bytes of a piece; a call for less is not worth it
_WRITTEN: Final = 4 << 20  # bytes at once
_own = threading.local()


def open_direct(path: Path, flags: int) -> int | None:
    """Return a descriptor for direct reading or writing; None where the file system has none."""
    try:
        return os.open(path, flags | os.O_DIRECT)
    except OSError:
        return None


def whole_pages(offset: int, length: int) -> range:
    """Return the part of a piece that is whole pages of the file, as positions within the piece; empty if small."""
    start, stop = -offset % _PAGE, length - (offset + length) % _PAGE
    return range(start, stop) if stop - start >= _SMALLEST else range(0)


def write_pages(descriptor: int, offset: int, values: Raw) -> None:
    """Write whole pages."""
    buffer = _buffer("written", _WRITTEN)
    for start in range(0, len(values), _WRITTEN):
        part = values[start : start + _WRITTEN]
        buffer[: len(part)] = part
        written = 0
        while written < len(part):
            written += os.pwrite(descriptor, buffer[written : len(part)].data, offset + start + written)


def read_past_cache(path: Path, offset: int, length: int) -> Raw | None:
    """Return bytes of a file, which stay until this thread reads again; None where the file system cannot, or few."""
    descriptor = open_direct(path, os.O_RDONLY) if length >= _SMALLEST else None
    if descriptor is None:
        return None
    before = offset % _PAGE
    buffer = _buffer("read", -(-(before + length) // _PAGE) * _PAGE)
    try:
        found = os.preadv(descriptor, [buffer.data], offset - before)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return buffer[before : before + length] if found >= before + length else None


def _buffer(name: str, size: int) -> Raw:
    """Return a buffer of this thread: memory of the system's own begins at a page."""
    held: Raw | None = getattr(_own, name, None)
    if held is None or len(held) < size:
        held = np.frombuffer(mmap.mmap(-1, size), np.uint8)
        setattr(_own, name, held)
    return held[:size]
