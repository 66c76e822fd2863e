"""Environments of the tools that ours is compared with: one for each, with pinned requirements."""

import os
from pathlib import Path

from trimtab_cluster.places import cache_dir
from trimtab_testing import environments

PINS = Path(__file__).parent / "peers"  # requirements, and what runs in these environments

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
    """Return the Python of a tool's environment; the first time it is made, which downloads about half a GB."""
    return environments.interpreter(name, PINS / f"{name}.txt")


def surroundings(name: str) -> dict[str, str]:
    """Return the variables of a process that runs a tool; ours has no name."""
    kept = {key: value for key, value in os.environ.items() if key not in _DROPPED}
    compiled = cache_dir() / "kernels" / (name or "ours")  # by torch, which has them in /tmp otherwise
    return kept | _SETTINGS | {"TORCHINDUCTOR_CACHE_DIR": str(compiled)}
