"""Python environments of pinned requirements, beside the development environment: made once, and kept in the cache."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Final

from trimtab_cluster.locks import locked
from trimtab_cluster.places import cache_dir

_UV: Final = Path(sys.executable).with_name("uv")


def interpreter(name: str, pins: Path, *options: str) -> Path:
    """Return the Python of the environment that a file of pins describes; the first time it is made, with a word."""
    folder = cache_dir() / "environments" / f"{name}-{_digest(pins)}"
    python, done = folder / "bin/python", folder / ".installed"
    with locked(folder.with_suffix(".lock")):
        if not done.exists():
            print(f"installing {name} into {folder}; this takes some minutes, once", file=sys.__stderr__, flush=True)
            subprocess.run([_UV, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True)
            install: list[str | Path] = [_UV, "pip", "install", "--quiet", "--compile-bytecode", *options]
            subprocess.run([*install, "--python", python, "--requirements", pins], check=True)
            done.touch()
    return python


def _digest(pins: Path) -> str:
    """Return what other pins do not have; comments among them do not count."""
    lines = (line for line in pins.read_bytes().splitlines(keepends=True) if not line.startswith(b"#"))
    return hashlib.sha256(b"".join(lines)).hexdigest()[:12]
