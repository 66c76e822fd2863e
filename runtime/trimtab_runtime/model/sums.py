"""The files of an artifact against the digests beside them: disks and downloads damage files, and models still load.

Files are hashed in a thread of their own while they are loaded: both read the same pages, so the disk is read once.
"""

import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from trimtab_api.errors import InvalidPackage
from trimtab_api.package import SUMS_FILE

_LINE: Final = re.compile(r"([0-9a-f]{64})[ ][ *](.+)")


@contextmanager
def verified(folder: Path) -> Iterator[None]:
    """Check the files while they are loaded; a package without digests is taken as it is.

    Raises InvalidPackage naming the file that is another, even where loading it failed: the damage is the reason.
    """
    sums = _read(folder)
    with ThreadPoolExecutor(1, "sums") as hashing:
        checked = [hashing.submit(_check, folder / name, name, digest) for name, digest in sums.items()]
        try:
            yield
        finally:
            for check in checked:
                check.result()


def _read(folder: Path) -> dict[str, str]:
    """Return digests by file. Raises InvalidPackage for what is no list of them, or names files elsewhere."""
    try:
        text = (folder / SUMS_FILE).read_text()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidPackage(f"{SUMS_FILE} cannot be read: {error}") from error
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None or Path(match[2]).is_absolute() or ".." in Path(match[2]).parts:
            raise InvalidPackage(f"{SUMS_FILE} has the line {line[:80]!r}; it has to be as sha256sum writes it")
        found[match[2]] = match[1]
    return found


def _check(path: Path, name: str, expected: str) -> None:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidPackage(f"{name} is in {SUMS_FILE}, but cannot be read: {error}") from error
    if digest != expected:
        raise InvalidPackage(
            f"{name} has the digest sha256:{digest}, but {SUMS_FILE} says sha256:{expected}: the file was damaged or "
            f"edited; pull the artifact again, or write {SUMS_FILE} anew"
        )
