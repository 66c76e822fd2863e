"""The bytes of a blob, wherever they are: sent as they are read, with a digest that is made on the way.

A layer is described and never written: headers of tar in memory, files where they lie. So an artifact of any size is
read once and needs no second place on the disk.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from trimtab_api.errors import InvalidPackage

CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    """A file, and the bytes that it is said to have: others rely on it."""

    path: Path
    size: int

    def chunks(self) -> Iterator[bytes]:
        """Yield the file piece by piece. Raises InvalidPackage where it cannot be read, or has another size by now."""
        left = self.size
        try:
            with self.path.open("rb", buffering=0) as file:
                for chunk in read_chunks(file):
                    left -= len(chunk)
                    if left < 0:
                        break
                    yield chunk
        except OSError as error:
            raise InvalidPackage(f"{self.path.name} cannot be read ({error}); push the package again") from error
        if left:
            raise InvalidPackage(f"{self.path.name} changed while it was sent; push again when nothing writes to it")

    @property
    def identity(self) -> tuple[int, ...]:
        """Return what another file, or the same one once it was written to, does not have."""
        found = self.path.stat()
        return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


Section = bytes | Stored


@dataclass(frozen=True, slots=True)
class Content:
    """Parts one after the other: bytes that are held, and files as a whole."""

    sections: tuple[Section, ...]

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        return sum(len(part) if isinstance(part, bytes) else part.size for part in self.sections)

    @property
    def identity(self) -> tuple[object, ...]:
        """Return what is equal only for the same bytes, without a look at them: files are told by inode and time."""
        return tuple(part if isinstance(part, bytes) else part.identity for part in self.sections)

    def chunks(self) -> Iterator[bytes]:
        """Yield all bytes in order."""
        for part in self.sections:
            if isinstance(part, Stored):
                yield from part.chunks()
            elif part:
                yield part

    def digest(self) -> str:
        """Read everything, and return `sha256:<hex>`."""
        reader = Reader(self)
        while reader.read(CHUNK):
            pass
        return reader.digest()


class Reader(io.RawIOBase):
    """Content as a file that is read from beginning to end, maybe several times, and knows the digest then."""

    def __init__(self, content: Content) -> None:
        self._content, self._size = content, content.size
        self._chunks, self._waiting, self._place = content.chunks(), memoryview(b""), 0
        self._hash = hashlib.sha256()

    def __len__(self) -> int:
        return self._size

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a part of a buffer with what comes next."""
        if not self._waiting:
            self._waiting = memoryview(next(self._chunks, b""))
        found, self._waiting = self._waiting[: len(buffer)], self._waiting[len(buffer) :]
        buffer[: len(found)] = found
        self._hash.update(found)
        self._place += len(found)
        return len(found)

    @property
    def is_read(self) -> bool:
        """Tell whether all was read."""
        return self._place == self._size

    def tell(self) -> int:
        """Return how many bytes were read."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go back to the beginning, which is the only place to go to."""
        if (offset, whence) != (0, io.SEEK_SET):
            raise io.UnsupportedOperation("content is read from its beginning")
        self._chunks, self._waiting, self._place = self._content.chunks(), memoryview(b""), 0
        self._hash = hashlib.sha256()
        return 0

    def digest(self) -> str:
        """Return `sha256:<hex>` of what was read."""
        return f"sha256:{self._hash.hexdigest()}"


def write_hashed(chunks: Iterable[bytes], file: IO[bytes], most: int | None = None) -> str:
    """Write chunks, and return `sha256:<hex>` of them. Stops once there are more than `most` bytes."""
    found, written = hashlib.sha256(), 0
    for chunk in chunks:
        found.update(chunk)
        written += file.write(chunk)
        if most is not None and written > most:
            break
    return f"sha256:{found.hexdigest()}"


def read_chunks(file: IO[bytes]) -> Iterator[bytes]:
    """Yield a file piece by piece."""
    return iter(lambda: file.read(CHUNK), b"")
