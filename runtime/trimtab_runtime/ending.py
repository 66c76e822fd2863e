"""How a process ends whose user has to change something, and where Kubernetes reads what."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trimtab_api.errors import UserError
from trimtab_api.report import EXIT_USER_ERROR, TERMINATION_MESSAGE_LIMIT
from trimtab_runtime.logs import say


@contextmanager
def told() -> Iterator[None]:
    """Exit with 42 for what the user has to change, and say what it is in the log and the termination message."""
    try:
        yield
    except UserError as error:
        say("cannot serve", reason=error.reason, cause=str(error))
        _tell(Path(os.environ.get("TRIMTAB_TERMINATION_LOG", "/dev/termination-log")), str(error))
        sys.exit(EXIT_USER_ERROR)


def _tell(file: Path, text: str) -> None:
    """Write the termination message; a laptop has no place for it."""
    if file.exists():
        with suppress(OSError):
            file.write_bytes(text.encode()[:TERMINATION_MESSAGE_LIMIT])
