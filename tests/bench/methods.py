"""Every way to make a model smaller, on both examples: what the optimize Job reports of accuracy, size and latency."""

import json
import os
import tempfile
from pathlib import Path

from figures import Table

from install import packages_of, trained
from trimtab_api.plan import make_plan
from trimtab_api.report import METRIC_ACCURACY, METRIC_LATENCY_P95, METRIC_SIZE, OptimizationResult
from trimtab_api.spec import ModelDeploymentSpec
from trimtab_optimizer.__main__ import attempt
from trimtab_optimizer.litert.tools import INTERPRETER
from trimtab_optimizer.store import open_store
from trimtab_testing.methods import Method, methods
from trimtab_testing.tensorflow import tensorflow_python

_REGISTRY = "registry.local:5000"
_ARTIFACTS = f"{_REGISTRY}/trimtab/bench"
_EXAMPLES = ("digits", "attention")
_BASE = "fp32"


def measure() -> Table:
    """Run the Job for each method on each example."""
    rows, default = [], tempfile.tempdir
    os.environ[INTERPRETER] = str(tensorflow_python())
    with tempfile.TemporaryDirectory(prefix="trimtab-methods-") as folder:
        for example in _EXAMPLES:
            _push(Path(folder), example)
            known = methods(example)
            base = _run(Path(folder), example, known[_BASE])
            for name, method in known.items():
                rows.append((example, name, *_figures(_run(Path(folder), example, method), base)))
    tempfile.tempdir = default  # the Job sets it, in a process of its own
    how = (
        "digits is a convolutional network, attention a transformer over a table; both are small. Size and latency "
        "(95th percentile of CPU time of one row, one thread) are parts of those of the same model in fp32 ONNX."
    )
    return Table(
        how, ("example", "method", "accuracy", "size", "latency", "seconds of all passes", "warning"), tuple(rows)
    )


def _push(folder: Path, example: str) -> None:
    store = open_store(directory=folder / "registry")
    for name, place in packages_of(example).items():
        repository, _, tag = place.partition(":")
        store.push(trained(example) / name, f"{_REGISTRY}/{repository}", (tag,), {})


def _run(folder: Path, example: str, method: Method) -> OptimizationResult:
    uris = {name: f"oci://{_REGISTRY}/{place}" for name, place in packages_of(example).items()}
    spec = ModelDeploymentSpec.parse(
        {
            "model": {"uri": uris["model"]},
            "optimization": method.optimization,
            "evaluation": {"data": uris["data-test"], "metrics": method.gate()},
        }
    )
    message, _ = attempt(
        {
            "TRIMTAB_PLAN": json.dumps(make_plan(spec).to_dict()),
            "TRIMTAB_ARTIFACT_REPOSITORY": _ARTIFACTS,
            "TRIMTAB_REGISTRY_DIR": str(folder / "registry"),
            "TRIMTAB_SCRATCH": str(folder / "scratch"),
        }
    )
    if message.result is None:
        raise RuntimeError(f"{example}, {method.name}: {message.failure}")
    return message.result


def _figures(result: OptimizationResult, base: OptimizationResult) -> tuple[str, ...]:
    found = {item.name: item.value or 0.0 for item in result.metrics}
    fp32 = {item.name: item.value or 1.0 for item in base.metrics}
    return (
        f"{100 * found[METRIC_ACCURACY]:.2f} %",
        f"{found[METRIC_SIZE] / fp32[METRIC_SIZE]:.2f}",
        f"{found[METRIC_LATENCY_P95] / fp32[METRIC_LATENCY_P95]:.2f}",
        f"{sum(item.seconds for item in result.passes):.1f}",
        "slower" if any(item.warning for item in result.passes) else "",
    )
