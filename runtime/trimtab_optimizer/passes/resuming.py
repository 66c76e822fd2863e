"""Where a pass writes what takes long: in a folder that outlives the process, where there is one, until it is whole."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trimtab_optimizer.passes.contract import Workplace


@dataclass(frozen=True, slots=True)
class Place:
    """Where to write, and the key of the work, by which a second process goes on with what a first one wrote."""

    folder: Path
    key: str | None = None


@contextmanager
def place_to_write(work: Workplace) -> Iterator[Place]:
    """Give a folder for large files; they lie in the target, which is there already, once this is left."""
    if work.unfinished is None:
        yield Place(work.target)
        return
    work.unfinished.mkdir(parents=True, exist_ok=True)
    yield Place(work.unfinished, work.unfinished.name)
    for file in work.unfinished.iterdir():
        shutil.move(file, work.target / file.name)
    work.unfinished.rmdir()
