"""The server's process."""

import sys
from pathlib import Path

import uvloop

from trimtab_api.errors import InvalidPackage
from trimtab_api.report import EXIT_USER_ERROR
from trimtab_runtime.config import read_config
from trimtab_runtime.server.lifecycle import log, serve

_TERMINATION_LOG = Path("/dev/termination-log")


def main() -> None:
    """Serve until SIGTERM. A broken artifact ends the process, with the reason in the termination log."""
    try:
        uvloop.run(serve(read_config()))
    except InvalidPackage as error:
        log("the artifact cannot be served", reason=error.reason, error=str(error))
        if _TERMINATION_LOG.exists():
            _TERMINATION_LOG.write_text(str(error)[:4000])
        sys.exit(EXIT_USER_ERROR)


if __name__ == "__main__":
    main()
