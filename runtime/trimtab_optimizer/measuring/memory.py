"""The memory that a model takes, in a process of its own: in this one, freed memory of other models would hide it.

The peak after one batch, less the peak after the same imports alone. Linux only, where the kernel keeps the peak.
"""

import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np

from trimtab_optimizer.measuring.latency import SERVING_BATCH
from trimtab_optimizer.package import Model
from trimtab_optimizer.tensors import Arrays

SECONDS: Final = 120


def peak_memory(model: Model, rows: Arrays, allow_pickle: bool, scratch: Path) -> int | str:
    """Return the bytes that loading a model and answering a batch as servers run it take; or why they are not known."""
    file, answer = scratch / "memory-rows.npz", scratch / "memory-peak"
    scratch.mkdir(parents=True, exist_ok=True)
    np.savez(file, **{name: values[:SERVING_BATCH] for name, values in rows.items()})  # type: ignore[arg-type]
    places = [str(place) for place in (model.folder, file, answer)]
    command = [sys.executable, "-m", "trimtab_optimizer.measuring.memory_probe", *places]
    try:
        ended = subprocess.run(
            [*command, *(["--allow-pickle"] if allow_pickle else [])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=SECONDS,
            check=False,
        )
        return int(answer.read_text()) if ended.returncode == 0 else _cause(ended.returncode, ended.stderr)
    except subprocess.TimeoutExpired:
        return f"took longer than {SECONDS} s"
    finally:
        file.unlink()
        answer.unlink(missing_ok=True)


def _cause(code: int, stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines() or ["no message"]
    return f"the process that loads the model ended with {code}: {lines[-1][:200]}"
