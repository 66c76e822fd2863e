"""Where a pass writes what takes long: in a folder that outlives the process, where there is one, until it is whole."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trimtab_optimizer.logs import say
from trimtab_optimizer.passes.contract import Workplace


@contextmanager
def place_to_write(work: Workplace) -> Iterator[tuple[Path, str | None]]:
    """Give a folder for large files; they lie in the target, which is there already, once this is left.

    With it comes the key of the work, if a second process can go on with what a first one wrote there.
    """
    if work.unfinished is None:
        yield work.target, None
        return
    if work.unfinished.exists():
        say("pass goes on with what a process before this one wrote")
    work.unfinished.mkdir(parents=True, exist_ok=True)
    yield work.unfinished, work.unfinished.name
    for file in work.unfinished.iterdir():
        shutil.move(file, work.target / file.name)
    work.unfinished.rmdir()
