"""Progress for a person, with the time since the start."""

import sys
import time

_STARTED = time.monotonic()


def say(text: str) -> None:
    """Print one line of progress on standard error."""
    print(f"[{time.monotonic() - _STARTED:6.1f}s] {text}", file=sys.stderr, flush=True)
