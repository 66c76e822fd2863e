"""A Python with TensorFlow, for what converts to LiteRT: made once from its lock file, and kept in the cache.

It stands beside the development environment and not in it, as it is a gigabyte that few tests need.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from trimtab_cluster.locks import locked
from trimtab_cluster.places import REPOSITORY, cache_dir
from trimtab_optimizer.litert.tools import INTERPRETER

LOCK: Final = REPOSITORY / "runtime/requirements-tensorflow.lock"


def tensorflow_python() -> Path:
    """Return the interpreter that the environment names, or that of the cache, after making it where it is lacking."""
    named = os.environ.get(INTERPRETER)
    if named:
        return Path(named)
    name = f"tensorflow-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
    folder = cache_dir() / "environments" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_suffix(".lock")):
        if not (folder / "complete").exists():
            _make(folder)
    return folder / "bin/python"


def _make(folder: Path) -> None:
    print(f"installing TensorFlow into {folder}; this takes a minute or two, once", file=sys.__stderr__, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    install = ["uv", "pip", "install", "--quiet", "--no-deps", "--python", str(folder / "bin/python"), "-r", str(LOCK)]
    subprocess.run([sys.executable, "-m", *install], check=True)
    (folder / "complete").touch()
