"""Environments of the tools that ours is compared with: one for each, with pinned requirements, kept in the cache."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from trimtab_cluster.places import cache_dir

PINS = Path(__file__).parent / "peers"  # requirements, and what runs in these environments
_UV = Path(sys.executable).with_name("uv")

# Nothing is asked of the network, and nothing is reported.
_SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_OFFLINE": "1",
    "OLIVE_DISABLE_TELEMETRY": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
_DROPPED = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH")


def interpreter(name: str) -> Path:
    """Return the Python of a tool's environment; makes it the first time, which downloads about half a GB."""
    pins = PINS / f"{name}.txt"
    folder = _folder(name, pins)
    python, done = folder / "bin/python", folder / ".installed"
    if not done.exists():
        print(f"installing {name} into {folder}", flush=True)
        subprocess.run([_UV, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True)
        install = [_UV, "pip", "install", "--compile-bytecode"]
        subprocess.run([*install, "--python", python, "--requirements", pins], check=True)
        done.touch()
    return python


def surroundings(name: str) -> dict[str, str]:
    """Return the variables of a process that runs a tool; ours has no name."""
    kept = {key: value for key, value in os.environ.items() if key not in _DROPPED}
    compiled = cache_dir() / "peers" / f"{name or 'ours'}-kernels"  # by torch, which has them in /tmp otherwise
    return kept | _SETTINGS | {"TORCHINDUCTOR_CACHE_DIR": str(compiled)}


def _folder(name: str, pins: Path) -> Path:
    """Return a place that other pins do not have; comments among them do not count."""
    lines = (line for line in pins.read_bytes().splitlines(keepends=True) if not line.startswith(b"#"))
    return cache_dir() / "peers" / f"{name}-{hashlib.sha256(b''.join(lines)).hexdigest()[:12]}"
