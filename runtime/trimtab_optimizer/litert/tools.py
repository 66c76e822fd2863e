"""Start what needs TensorFlow or LiteRT's quantizer in a process of its own, and find what these are installed with.

TRIMTAB_TENSORFLOW_PYTHON names another interpreter that has them: on a laptop they need not share one environment with
torch. Without it, it is the one that runs this.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from trimtab_api.errors import MissingTool, PassFailed

INTERPRETER: Final = "TRIMTAB_TENSORFLOW_PYTHON"
REQUIREMENTS: Final = "runtime/requirements-tensorflow.lock"

_COLORS: Final = re.compile(r"\x1b\[[0-9;]*m")
_OUT_OF_MEMORY: Final = 137  # killed, which in a container is mostly the kernel's doing
_ENVIRONMENT: Final = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "PYTHONHASHSEED": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_USE_LEGACY_KERAS": "1",
}


def run_tool(script: Path, folder: Path, what: str) -> None:
    """Run a script of this package on a folder. Raises MissingTool, and PassFailed with what the script said last."""
    interpreter = os.environ.get(INTERPRETER) or sys.executable
    # -P: the script's own folder is not where modules are looked for.
    command = [interpreter, "-P", str(script), str(folder)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **_ENVIRONMENT},
            check=False,
        )
    except OSError as error:
        raise MissingTool(f"{INTERPRETER} names no Python that can be run ({error}); mend or unset it") from error
    if done.returncode:
        raise _failure(done.returncode, done.stdout.decode(errors="replace"), what)


def _failure(code: int, output: str, what: str) -> Exception:
    lines = [line.strip() for line in _COLORS.sub("", output).splitlines() if line.strip()] or ["no message"]
    missing = re.match(r"ModuleNotFoundError: No module named '([^'.]+)", lines[-1])
    if missing:
        return MissingTool(
            f"{what} needs {missing[1]}, which is not installed here; install it with "
            f"`pip install --no-deps -r {REQUIREMENTS}`, or name a Python that has it in {INTERPRETER}"
        )
    if code in (-9, _OUT_OF_MEMORY):
        return MemoryError(f"{what}: its process was killed")
    said = next((line for line in reversed(lines) if line.startswith("ERROR:")), lines[-1])
    return PassFailed(f"{what} failed: {said[:400]}")
