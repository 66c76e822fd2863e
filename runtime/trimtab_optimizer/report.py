"""report.json: everything that was done and measured, inside the artifact beside the model it tells of."""

import json
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from trimtab_api.contract import Contract
from trimtab_api.package import REPORT_FILE
from trimtab_api.plan import OPTIMIZER_VERSION, Plan
from trimtab_api.report import MeasuredMetric, PassReport

_TOOLS: Final = (
    *("torch", "torch-pruning", "onnx", "onnxscript", "onnxruntime", "safetensors", "numpy", "trimtab"),
    *("ai-edge-litert", "ai-edge-quantizer", "onnx2tf", "tensorflow-cpu"),
)


class LayerNoise(Contract):
    """How much of a layer's result is noise that a pass brought in: signal to noise in decibels, small is bad.

    `name` is that of the result in the graph, `weight` that of the matrix it is a product with, if it is constant.
    """

    name: str
    sqnr_db: float
    weight: str | None = None


class PassRecord(Contract):
    """One pass of this artifact. What was measured is absent for a pass whose result was found in the registry.

    `absent` says of each measure that was not taken why; `worst_layers` are those whose results the pass changed most.
    """

    name: str
    state: str  # Succeeded | Reused
    parameters: dict[str, Any]
    seconds: float
    size_bytes: int
    size_bytes_before: int
    seed: int
    notes: dict[str, Any]
    warning: str | None = None
    metrics: dict[str, float] | None = None
    operators: dict[str, int] | None = None
    worst_layers: tuple[LayerNoise, ...] | None = None
    absent: dict[str, str] | None = None

    def stored(self) -> "PassRecord":
        """Return what stays true of this pass whatever data it is measured on."""
        return self.model_copy(update=dict.fromkeys(("metrics", "operators", "worst_layers", "absent")))

    def summary(self) -> PassReport:
        """Return what the Job tells of this pass."""
        return PassReport(
            name=self.name, state=self.state, seconds=self.seconds, size_bytes=self.size_bytes, warning=self.warning
        )


def write_report(
    folder: Path,
    plan: Plan,
    resolved: Mapping[str, str],
    passes: tuple[PassRecord, ...],
    metrics: tuple[MeasuredMetric, ...],
    details: Mapping[str, Mapping[str, Any]],
    variants: list[dict[str, Any]] | None = None,
) -> None:
    """Write report.json into the folder of an artifact."""
    document = {
        "optimizerVersion": OPTIMIZER_VERSION,
        "plan": {"digest": plan.key(resolved), **plan.to_dict()},
        "resolved": dict(resolved),
        "tools": tool_versions(),
        "passes": [item.to_dict() for item in passes],
        "metrics": [{**item.to_dict(), **details.get(item.name, {})} for item in metrics],
    }
    if variants is not None:
        document["variants"] = variants
    (folder / REPORT_FILE).write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def tool_versions() -> dict[str, str]:
    """Return the versions of what took part."""
    found = {"python": ".".join(str(part) for part in sys.version_info[:3])}
    for name in _TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # an image may hold the sources alone
            continue
    return found
