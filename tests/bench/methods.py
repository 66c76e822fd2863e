"""Every way to quantize, on both examples: what the optimize Job reports of accuracy, size and latency."""

import json
import tempfile
from pathlib import Path
from typing import Any

from figures import Table

from install import packages_of, trained
from trimtab_api.report import METRIC_ACCURACY, METRIC_LATENCY_P95, METRIC_SIZE, OptimizationResult
from trimtab_optimizer.__main__ import attempt
from trimtab_optimizer.store import open_store

_REGISTRY = "registry.local:5000"
_ARTIFACTS = f"{_REGISTRY}/trimtab/bench"
_EXAMPLES = ("digits", "attention")

METHODS: dict[str, dict[str, Any] | None] = {
    "ONNX, fp32": None,
    "int8, static": {"mode": "static"},
    "int8, dynamic": {"mode": "dynamic"},
    "int8, weights": {"mode": "weights"},
    "int4": {"dtype": "int4"},
    "int4, blocks of 128": {"dtype": "int4", "blockSize": 128},
    "int4, symmetric": {"dtype": "int4", "symmetric": True},
    "int2, blocks of 16": {"dtype": "int2", "blockSize": 16},
    "fp16": {"dtype": "fp16"},
    "bf16": {"dtype": "bf16"},
    "fp8e4m3": {"dtype": "fp8e4m3"},
    "fp8e5m2": {"dtype": "fp8e5m2"},
}


def measure() -> Table:
    """Run the Job for each method on each example."""
    rows, default = [], tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="trimtab-methods-") as folder:
        for example in _EXAMPLES:
            _push(Path(folder), example)
            base = _run(Path(folder), example, None)
            for name, quantize in METHODS.items():
                rows.append((example, name, *_figures(_run(Path(folder), example, quantize), base)))
    tempfile.tempdir = default  # the Job sets it, in a process of its own
    how = (
        "digits is a convolutional network, attention a transformer over a table; both are small. Size and latency "
        "(95th percentile of CPU time of one row, one thread) are parts of those of the same model in fp32 ONNX."
    )
    return Table(
        how, ("example", "method", "accuracy", "size", "latency", "seconds of the pass", "warning"), tuple(rows)
    )


def _push(folder: Path, example: str) -> None:
    store = open_store(directory=folder / "registry")
    for name, place in packages_of(example).items():
        repository, _, tag = place.partition(":")
        store.push(trained(example) / name, f"{_REGISTRY}/{repository}", (tag,), {})


def _run(folder: Path, example: str, quantize: dict[str, Any] | None) -> OptimizationResult:
    uris = {name: f"oci://{_REGISTRY}/{place}" for name, place in packages_of(example).items()}
    passes: list[dict[str, Any]] = [{"convert": {}}]
    if quantize is not None:
        calibration = {"calibration": {"uri": uris["data-train"], "samples": 256}}
        passes.append({"quantize": quantize | (calibration if quantize.get("mode") == "static" else {})})
    plan = {"source": {"uri": uris["model"]}, "passes": passes, "evaluationData": uris["data-test"]}
    message, _ = attempt(
        {
            "TRIMTAB_PLAN": json.dumps(plan),
            "TRIMTAB_ARTIFACT_REPOSITORY": _ARTIFACTS,
            "TRIMTAB_REGISTRY_DIR": str(folder / "registry"),
            "TRIMTAB_SCRATCH": str(folder / "scratch"),
        }
    )
    if message.result is None:
        raise RuntimeError(f"{example} {quantize}: {message.failure}")
    return message.result


def _figures(result: OptimizationResult, base: OptimizationResult) -> tuple[str, ...]:
    found = {item.name: item.value or 0.0 for item in result.metrics}
    fp32 = {item.name: item.value or 1.0 for item in base.metrics}
    last = result.passes[-1]
    return (
        f"{100 * found[METRIC_ACCURACY]:.2f} %",
        f"{found[METRIC_SIZE] / fp32[METRIC_SIZE]:.2f}",
        f"{found[METRIC_LATENCY_P95] / fp32[METRIC_LATENCY_P95]:.2f}",
        f"{last.seconds:.2f}",
        "slower" if last.warning else "",
    )
