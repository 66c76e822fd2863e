"""What a pass holds in memory, as a multiple of the weights: two sizes, and the slope between them.

Run by itself, with a pass and a width, it measures one and prints bytes: each in its own process, since a peak stays.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from figures import Table

_WIDTHS = (1024, 2048)
_DATA = "oci://registry.local:5000/data/rows:v1"
_PASSES: dict[str, dict[str, Any]] = {
    "convert": {"convert": {}},
    "quantize, static": {"quantize": {"mode": "static", "calibration": {"uri": _DATA, "samples": 64}}},
    "quantize, dynamic": {"quantize": {"mode": "dynamic"}},
    "prune, channels": {"prune": {"amount": 0.5}},
    "distill": {"distill": {"data": _DATA, "epochs": 1, "patience": 1}},
}
_CODE = """from torch import nn


def build():
    hidden = [layer for _ in range(8) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, 10))
"""


def measure() -> Table:
    """Run each pass over both sizes."""
    rows = []
    for name in _PASSES:
        (small, low), (large, high) = (_of(name, width) for width in _WIDTHS)
        rows.append((name, f"{low >> 20}", f"{high >> 20}", f"{(high - low) / (large - small):.1f}"))
    how = "Dense networks; peak of the pass less what the libraries hold. The slope is what grows with the model."
    sizes = (f"MiB with weights of {width * width * 32 >> 20} MiB" for width in _WIDTHS)
    return Table(how, ("pass", *sizes, "times the weights"), tuple(rows))


def _of(name: str, width: int) -> tuple[int, int]:
    """Return the bytes of the weights, and those that a pass takes at most."""
    command = [sys.executable, __file__, name, str(width)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    weights, peak = done.stdout.split()[-2:]
    return int(weights), int(peak)


class NoCheckpoints:
    """For training that is short: who is killed begins anew."""

    def load(self) -> Path | None:
        """Return none."""
        return None

    def save(self, file: Path) -> None:
        """Keep nothing."""


def _run(name: str, width: int, folder: Path) -> tuple[int, int]:
    import numpy as np

    from trimtab_api.spec import OptimizationPass
    from trimtab_optimizer.data import Dataset
    from trimtab_optimizer.measuring.memory_probe import peak_bytes
    from trimtab_optimizer.package import load_package
    from trimtab_optimizer.passes import PASSES
    from trimtab_optimizer.passes.contract import Workplace

    source = load_package(_package(width, folder))
    values = np.random.default_rng(0).standard_normal((128, width)).astype(np.float32)
    rows = Dataset({"x": values}, np.arange(128) % 10)

    def work(place: str) -> Workplace:
        (folder / f"{place}-scratch").mkdir()
        return Workplace(folder / place, folder / f"{place}-scratch", 0, False, source, NoCheckpoints(), {}, rows)

    if name.startswith("quantize"):
        _in_a_child(lambda: PASSES["convert"].run(OptimizationPass.parse(_PASSES["convert"]), source, work("onnx")))
    model = load_package(folder / "onnx") if name.startswith("quantize") else source
    item, before = OptimizationPass.parse(_PASSES[name]), peak_bytes()
    PASSES[item.kind].run(item, model, work("made"))
    return source.size_bytes(), peak_bytes() - before


def _package(width: int, folder: Path) -> Path:
    import yaml
    from safetensors.torch import save_file

    code, scope = _CODE.replace("WIDTH", str(width)), {}
    exec(code, scope)
    package = folder / "package"
    package.mkdir()
    (package / "network.py").write_text(code)
    _in_a_child(lambda: save_file(scope["build"]().state_dict(), package / "model.safetensors"))
    described = {
        "name": "dense",
        "format": "pytorch",
        "entrypoint": "network:build",
        "weights": "model.safetensors",
        "inputs": [{"name": "x", "shape": [-1, width]}],
        "outputs": [{"name": "y", "shape": [-1, 10]}],
    }
    (package / "model.yaml").write_text(yaml.safe_dump(described))
    return package


def _in_a_child(work: Any) -> None:
    """Do something whose memory is not to count."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("a child failed")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="trimtab-memory-") as made:
        print(*_run(sys.argv[1], int(sys.argv[2]), Path(made)))
