"""The server's process: `trimtab-runtime`, or `python -m trimtab_runtime`.

0: served, and ended by a signal
42: the user has to change something: the artifact or the configuration cannot be served
any other: the environment failed (a port is taken, memory ran out), or we did
"""

import os
import signal
import sys
from typing import NoReturn

import uvloop

from trimtab_runtime.config import RuntimeConfig, read_config
from trimtab_runtime.ending import told
from trimtab_runtime.logs import log_as_json
from trimtab_runtime.model.manifest import count_models, is_generative
from trimtab_runtime.server.metrics import tallies_for
from trimtab_runtime.server.place import Place
from trimtab_runtime.workers import run_workers


def main() -> None:
    """Serve until SIGTERM. An artifact that cannot be served ends the process, and Kubernetes is told the reason."""
    log_as_json()
    signal.signal(signal.SIGTERM, _leave)  # as process 1 of a container there is no default action while we load
    with told():
        config = read_config(sys.argv[1:], os.environ)
        models = count_models(config.model_dir)
        if config.workers > 1:
            sys.exit(run_workers(config, models, _work))
        _work(config, Place(tallies_for(1, models)))


def _work(config: RuntimeConfig, place: Place) -> None:
    with told():
        uvloop.run(_serve(config, place))


async def _serve(config: RuntimeConfig, place: Place) -> None:
    """Serve what the package says that it is; no kind loads what only another needs."""
    if config.engine is not None:
        from trimtab_runtime.server.generative.front import serve_front

        await serve_front(config, place)
    elif is_generative(config.model_dir):
        from trimtab_runtime.server.generative.lifecycle import serve_generative

        await serve_generative(config, place)
    else:
        from trimtab_runtime.server.lifecycle import serve

        await serve(config, place)


def _leave(*_: object) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    main()
