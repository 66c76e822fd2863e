"""Progress for a person, on standard error: standard output is for what another program reads."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    """Print one line of progress."""
    print(f"trimtab: {text}", file=sys.stderr, flush=True)


@contextmanager
def timed(text: str) -> Iterator[None]:
    """Print a line when a piece of work starts and another, with the seconds it took, when it is done."""
    say(f"{text} ...")
    started = time.monotonic()
    yield
    say(f"{text}: {time.monotonic() - started:.1f} s")
