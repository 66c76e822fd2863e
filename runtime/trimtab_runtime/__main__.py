"""The server's process: `trimtab-runtime`, or `python -m trimtab_runtime`.

0: served, and ended by a signal
42: the user has to change something: the artifact or the configuration cannot be served
any other: the environment failed (a port is taken, memory ran out), or we did
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import uvloop

from trimtab_api.errors import UserError
from trimtab_api.report import EXIT_USER_ERROR, TERMINATION_MESSAGE_LIMIT
from trimtab_runtime.config import RuntimeConfig, read_config
from trimtab_runtime.logs import log_as_json, say
from trimtab_runtime.server.lifecycle import serve
from trimtab_runtime.server.metrics import tallies_for
from trimtab_runtime.server.place import Place
from trimtab_runtime.workers import run_workers


def main() -> None:
    """Serve until SIGTERM. An artifact that cannot be served ends the process, and Kubernetes is told the reason."""
    log_as_json()
    signal.signal(signal.SIGTERM, _leave)  # as process 1 of a container there is no default action while we load
    with _told():
        config = read_config(sys.argv[1:], os.environ)
        if config.workers > 1:
            sys.exit(run_workers(config, _work))
        _work(config, Place(tallies_for(1)))


def _work(config: RuntimeConfig, place: Place) -> None:
    with _told():
        uvloop.run(serve(config, place))


@contextmanager
def _told() -> Iterator[None]:
    """Exit for what the user has to change, and say where Kubernetes reads what it is."""
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


def _leave(*_: object) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    main()
