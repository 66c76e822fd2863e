"""How much faster a row is served than from fp32 ONNX, on models large enough to tell: a goal for each, as a ratio."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import speed_models
import torch
import yaml
from figures import Table, spread
from safetensors.torch import save_file

from trimtab_api.plan import make_plan
from trimtab_api.spec import ModelDeploymentSpec
from trimtab_optimizer.__main__ import attempt
from trimtab_optimizer.measuring.latency import latency_ratio
from trimtab_optimizer.package import Model, load_package
from trimtab_optimizer.store import Store, open_store

_REGISTRY = "registry.local:5000"
_ROUNDS = 5
_DATA = f"oci://{_REGISTRY}/data/NAME:v1"

_SHAPES = {"convolutional": [-1, 3, 112, 112], "transformer": [-1, 128, 512], "dense": [-1, 1024]}
_STATIC = {"quantize": {"mode": "static", "calibration": {"uri": _DATA, "samples": 8}}}
_DYNAMIC = {"quantize": {"mode": "dynamic"}}
_HALF = {"prune": {"amount": 0.5}}

# model, method, passes, how many times as fast it is to be
_CASES: tuple[tuple[str, str, list[dict[str, Any]], str], ...] = (
    ("convolutional", "int8, static", [_STATIC], "2.5"),
    ("convolutional", "half the channels", [_HALF], ""),
    ("convolutional", "half the channels, int8, static", [_HALF, _STATIC], "8"),
    ("transformer", "int8, dynamic", [_DYNAMIC], "3"),
    ("transformer", "half the channels and heads", [{"prune": {"amount": 0.5, "attentionHeads": True}}], ""),
    (
        "transformer",
        "half the channels and heads, int8, dynamic",
        [{"prune": {"amount": 0.5, "attentionHeads": True}}, _DYNAMIC],
        "",
    ),
    ("dense", "int4", [{"quantize": {"dtype": "int4"}}], "4"),
    ("dense", "int8, dynamic", [_DYNAMIC], ""),
)


def measure() -> Table:
    """Run the Job for each case, then call it and the fp32 model in turns."""
    rows, default = [], tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="trimtab-speed-") as made:
        folder = Path(made)
        store = open_store(directory=folder / "registry")
        for name in _SHAPES:
            _push(store, folder, name)
        bases = {name: _run(store, folder, name, []) for name in _SHAPES}
        for name, method, passes, goal in _CASES:
            faster, smaller = _compare(bases[name], _run(store, folder, name, passes))
            rows.append((name, method, spread(faster, "x"), goal, f"{smaller:.3f}"))
    tempfile.tempdir = default  # the Job sets it, in a process of its own
    how = (
        f"Random weights; CPU time of one row on one thread, ten calls of each model in turns, {_ROUNDS} rounds: "
        f"median (smallest to largest). {_vnni()}"
    )
    return Table(how, ("model", "method", "times as fast", "goal", "size"), tuple(rows))


def _compare(base: Model, made: Model) -> tuple[list[float], float]:
    faster = [1 / latency_ratio(base, made, None, False, n) for n in range(_ROUNDS)]
    return faster, made.size_bytes() / base.size_bytes()


def _push(store: Store, folder: Path, name: str) -> None:
    torch.manual_seed(0)
    module = getattr(speed_models, name)()
    package = folder / f"{name}-package"
    package.mkdir()
    shutil.copyfile(speed_models.__file__, package / "network.py")  # another name: this process has imported the first
    save_file({key: value.contiguous() for key, value in module.state_dict().items()}, package / "model.safetensors")
    described = {
        "name": name,
        "format": "pytorch",
        "entrypoint": f"network:{name}",
        "weights": "model.safetensors",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": _SHAPES[name]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 10]}],
    }
    (package / "model.yaml").write_text(yaml.safe_dump(described))
    data = folder / f"{name}-data"
    data.mkdir()
    values = np.random.default_rng(0).standard_normal((8, *_SHAPES[name][1:])).astype(np.float32)
    np.savez(data / "data.npz", x=values)
    store.push(package, f"{_REGISTRY}/models/{name}", ("v1",), {})
    store.push(data, f"{_REGISTRY}/data/{name}", ("v1",), {})


def _run(store: Store, folder: Path, name: str, passes: list[dict[str, Any]]) -> Model:
    """Return the artifact of a plan, from the registry."""
    text = json.dumps({"model": {"uri": f"oci://{_REGISTRY}/models/{name}:v1"}, "optimization": {"passes": passes}})
    spec = ModelDeploymentSpec.parse(json.loads(text.replace("NAME", name)))
    message, _ = attempt(
        {
            "TRIMTAB_PLAN": json.dumps(make_plan(spec).to_dict()),
            "TRIMTAB_ARTIFACT_REPOSITORY": f"{_REGISTRY}/trimtab/speed",
            "TRIMTAB_REGISTRY_DIR": str(folder / "registry"),
            "TRIMTAB_SCRATCH": str(folder / "scratch"),
        }
    )
    if message.result is None:
        raise RuntimeError(f"{name} {passes}: {message.failure}")
    target = Path(tempfile.mkdtemp(dir=folder)) / "artifact"
    store.pull(f"oci://{message.result.artifact}", target)
    return load_package(target)


def _vnni() -> str:
    flags = Path("/proc/cpuinfo").read_text()
    return f"This CPU has {'' if 'vnni' in flags else 'no '}VNNI, which int8 gains most from."
