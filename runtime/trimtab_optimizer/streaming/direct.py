"""Large files past the page cache: no memory and little time for bytes that nobody reads again soon.

The system moves such bytes between the disk and our memory itself (O_DIRECT), and copies nothing. That takes whole
pages, at places of the file and of memory that are multiples of a page; so bytes go by way of a buffer, which each
thread has for itself. Where a file system has no such thing, callers read and write as always.
"""

import errno
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


def write_pages(descriptor: int, offset: int, values: Raw) -> int:
    """Write whole pages; return how many bytes were written, which are fewer where the system wants it otherwise."""
    buffer, done = _buffer("written", _WRITTEN), 0
    while done < len(values):
        part = values[done : done + _WRITTEN]
        buffer[: len(part)] = part
        try:
            written = os.pwrite(descriptor, buffer[: len(part)].data, offset + done)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                break
            raise
        done += written
        if written < len(part):  # the next call would begin within a page
            break
    return done


def read_past_cache(path: Path, offset: int, length: int) -> Raw | None:
    """Return bytes of a file, from the cache where they are in it already. They stay until this thread reads again.

    None for few bytes, and where the file system has no direct reading.
    """
    if length < _SMALLEST:
        return None
    before = offset % _PAGE
    buffer = _buffer("read", -(-(before + length) // _PAGE) * _PAGE)
    how = 0 if _is_cached(path, offset - before, len(buffer)) else os.O_DIRECT
    found = _read(path, os.O_RDONLY | how, buffer, offset - before)
    return buffer[before : before + length] if found >= before + length else None


def _is_cached(path: Path, start: int, length: int) -> bool:
    """Guess from its ends whether a part of a file is in the cache; only that page is fetched if it is not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_RANDOM)
        ends = (start, start + length - _PAGE)
        return all(os.preadv(descriptor, [bytearray(1)], end, os.RWF_NOWAIT) for end in ends)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _read(path: Path, flags: int, buffer: Raw, offset: int) -> int:
    """Return how many bytes were read; none where the file system cannot."""
    try:
        descriptor = os.open(path, flags)
        try:
            return os.preadv(descriptor, [buffer.data], offset)
        finally:
            os.close(descriptor)
    except OSError:
        return 0


def _buffer(name: str, size: int) -> Raw:
    """Return a buffer of this thread: memory of the system's own begins at a page."""
    held: Raw | None = getattr(_own, name, None)
    if held is None or len(held) < size:
        held = np.frombuffer(mmap.mmap(-1, size), np.uint8)
        setattr(_own, name, held)
    return held[:size]
