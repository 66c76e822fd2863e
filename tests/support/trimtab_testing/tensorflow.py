"""A Python with TensorFlow, for what converts to LiteRT: a gigabyte that few tests need."""

import os
from pathlib import Path
from typing import Final

from trimtab_cluster.places import REPOSITORY
from trimtab_optimizer.litert.tools import INTERPRETER
from trimtab_testing.environments import interpreter

LOCK: Final = REPOSITORY / "runtime/requirements-tensorflow.lock"


def tensorflow_python() -> Path:
    """Return the interpreter that the environment names, or that of the cache, after making it where it is lacking."""
    named = os.environ.get(INTERPRETER)
    return Path(named) if named else interpreter("tensorflow", LOCK, "--no-deps")
