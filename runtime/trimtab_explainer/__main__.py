"""The explainer's process: `trimtab-explainer`, or `python -m trimtab_explainer`. Exit codes are the server's."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import uvloop

from trimtab_explainer.config import ExplainerConfig, read_config
from trimtab_explainer.server import serve
from trimtab_runtime.descent import end_with
from trimtab_runtime.ending import told
from trimtab_runtime.logs import log_as_json

_LEAST_URGENT: Final = 19


def main() -> None:
    """Explain until SIGTERM."""
    log_as_json()
    with told():
        config = read_config(sys.argv[1:], os.environ)
        if config.parent is not None:
            _stand_back(config, config.parent)
        uvloop.run(serve(config))


def _stand_back(config: ExplainerConfig, parent: int) -> None:
    """Beside a server: take only what it leaves of the CPUs, be the first to go where memory is short, end with it."""
    end_with(parent)
    os.nice(_LEAST_URGENT)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main()
