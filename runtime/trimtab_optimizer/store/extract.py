"""Unpack a layer that somebody else packed: regular files and directories only, nothing outside, bounded in size.

Own code, since tarfile's `data` filter lets links inside the folder pass, and no link is needed in a package.
"""

import gzip
import lzma
import os
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from trimtab_api.errors import InvalidPackage

_CHUNK = 1 << 20
_DAMAGED = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, ValueError, UnicodeError)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an image may hold at most; against archives that grow without end."""

    total_bytes: int = 256 << 30
    files: int = 20_000


@dataclass(slots=True)
class _Used:
    total_bytes: int = 0
    files: int = 0


class Extractor:
    """Unpacks the layers of one image, in order, into one new folder. Raises InvalidPackage for what it refuses."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self._folder = folder
        self._limits = limits or Limits()
        self._used = _Used()
        folder.mkdir(parents=True, exist_ok=False)

    def extract(self, layer: Path) -> None:
        """Unpack one layer: tar, plain or compressed with gzip."""
        try:
            with _open(layer) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    self._extract(archive, member)
        except _DAMAGED as error:
            raise InvalidPackage(f"a layer is not a readable tar archive ({error}); push the package again") from error
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise InvalidPackage(f"{_inside(error, self._folder)} is a file and a directory; push it again") from error

    def _extract(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = _safe_path(member.name)
        if not (member.isreg() or member.isdir()):
            raise InvalidPackage(f"`{member.name}` is a link or a special file; put a plain file in its place")
        self._account(member)
        target = self._folder / path
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        content = archive.extractfile(member)
        if content is None:
            raise InvalidPackage(f"`{member.name}` has no content; push the package again")
        _write(content, target)

    def _account(self, member: tarfile.TarInfo) -> None:
        self._used.files += 1
        self._used.total_bytes += member.size
        if self._used.files > self._limits.files:
            raise InvalidPackage(f"the package has more than {self._limits.files} files; pack them into fewer")
        if self._used.total_bytes > self._limits.total_bytes:
            raise InvalidPackage(f"the package is larger than {self._limits.total_bytes} bytes when unpacked")


def _open(layer: Path) -> BinaryIO | gzip.GzipFile:
    with layer.open("rb") as head:
        packed = head.read(2) == b"\x1f\x8b"
    return gzip.open(layer, "rb") if packed else layer.open("rb")


def _safe_path(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise InvalidPackage(f"`{name}` leads outside the package; use plain relative names")
    if any(part.startswith(".wh.") for part in path.parts):
        raise InvalidPackage(f"`{name}` deletes a file of a layer below; push the package as one flat folder")
    return path


def _write(content: IO[bytes], target: Path) -> None:
    """Write a file anew: a later layer replaces the file of an earlier one."""
    target.unlink(missing_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    with os.fdopen(descriptor, "wb") as output:
        while chunk := content.read(_CHUNK):
            output.write(chunk)


def _inside(error: OSError, folder: Path) -> str:
    return os.path.relpath(str(error.filename), folder) if error.filename else "an entry"
