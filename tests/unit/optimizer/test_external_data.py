"""Models beyond what one protobuf file can hold: weights beside the graph, through every pass."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimtab_optimizer.importers import empty
from trimtab_optimizer.streaming import output


@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_weights_beyond_the_limit_of_protobuf_go_beside_the_graph(
    mode: str,
    digits: dict[str, str],
    run_job: Callable[..., Any],
    directory_store: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A gigabyte of weights for every test run would be too much.
    monkeypatch.setattr(empty, "LARGEST_HELD", 50_000)
    monkeypatch.setattr(output, "_LARGEST_INLINE", 50_000)
    quantize = {"mode": mode} | ({"calibration": {"uri": digits["train"]}} if mode == "static" else {})
    passes = [{"convert": {}}, {"quantize": quantize}]

    answer = run_job({"source": {"uri": digits["model"]}, "passes": passes, "evaluationData": digits["test"]})

    assert answer.code == 0, answer.failure
    metrics = {item.name: item for item in answer.result.metrics}
    assert metrics["accuracy"].value >= metrics["accuracy"].source - 0.01
    directory_store.pull(f"oci://{answer.result.artifact}", tmp_path / "artifact")
    names = {path.name: path.stat().st_size for path in (tmp_path / "artifact").iterdir()}
    beside = set(names) - {"model.onnx", "model.yaml", "report.json", "SHA256SUMS"}
    assert len(beside) == 1
    assert metrics["sizeBytes"].value == names["model.onnx"] + sum(names[name] for name in beside)
