"""SHA256SUMS: the digest of every file of an artifact, for who loads it, and for `sha256sum -c`."""

import hashlib
from pathlib import Path

from trimtab_api.package import SUMS_FILE


def write_sums(folder: Path) -> None:
    """Write the digests of all other files of a folder, in the form of coreutils."""
    lines = []
    for path in sorted(item for item in folder.rglob("*") if item.is_file()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(folder).as_posix()}\n")
    (folder / SUMS_FILE).write_text("".join(lines), encoding="utf-8")
