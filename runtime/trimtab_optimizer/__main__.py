"""The process of the Job: environment in, termination message and exit code out.

0   the artifact is published (or was found)
42  the user has to change something: the Job is not tried again
1   the environment failed, or we did: trying again may help
"""

import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from trimtab_api.errors import TrimtabError, UserError
from trimtab_api.report import EXIT_TRANSIENT, EXIT_USER_ERROR, JobMessage
from trimtab_optimizer.config import read_config
from trimtab_optimizer.known import find_result, resolve
from trimtab_optimizer.logs import log_as_json, say
from trimtab_optimizer.message import failure, failure_of, success, write_message
from trimtab_optimizer.resources import as_out_of_resources
from trimtab_optimizer.starts import count_start
from trimtab_optimizer.store import open_store


def main() -> None:
    """Run the plan of the environment."""
    log_as_json()
    signal.signal(signal.SIGTERM, _stop)  # as process 1 of a container there is no default action
    message, code = attempt(os.environ)
    write_message(message, Path(os.environ.get("TRIMTAB_RESULT_FILE", "/dev/termination-log")))
    sys.exit(code)


def attempt(environ: Mapping[str, str]) -> tuple[JobMessage, int]:
    """Carry out the plan of an environment and return the message with the exit code; nothing is raised."""
    try:
        return _run(environ), 0
    except Exception as error:
        found = as_out_of_resources(error) or error
        if isinstance(found, TrimtabError):
            say("failed", reason=found.reason, cause=str(found))
            return failure_of(found), EXIT_USER_ERROR if isinstance(found, UserError) else EXIT_TRANSIENT
        traceback.print_exc()
        return failure("InternalError", f"{type(error).__name__}; the log of the Job has the traceback"), EXIT_TRANSIENT


def _run(environ: Mapping[str, str]) -> JobMessage:
    config = read_config(environ)
    config.scratch.mkdir(parents=True, exist_ok=True)
    count_start(config.scratch, config.starts)
    store = open_store(config.insecure_registries, config.docker_configs, config.registry_dir)
    resolved = resolve(store, config.plan)
    known = find_result(store, config.artifact_repository, config.plan, resolved)
    if known is not None:
        say("plan found", plan=known.plan, artifact=known.artifact)
        return success(known)
    tempfile.tempdir = str(_emptied(config.scratch / "tmp"))  # the libraries' temporary files are as large as the model
    from trimtab_optimizer.pipeline import make_artifact  # late: torch takes seconds, which a known plan can do without

    return success(make_artifact(config, store, resolved))


def _emptied(folder: Path) -> Path:
    """Make a folder anew: a process that was killed may have left something in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _stop(number: int, frame: object) -> NoReturn:
    os._exit(128 + number)  # at once: an exception could be taken for one of the model's code


if __name__ == "__main__":
    main()
