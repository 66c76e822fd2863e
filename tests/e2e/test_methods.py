"""Every way to make a model smaller goes the whole road: from YAML through its Job and its gate to predictions."""

from typing import Any

import pytest
import yaml

from install import EXAMPLES, manifest_of
from road import Road
from target import Target
from trimtab_testing.predictions import forwarded, grpc_logits, held_out

METHODS: dict[str, tuple[dict[str, Any], float, float]] = {
    # quantize, most points of accuracy lost, largest part of the source's size
    "int8 dynamic": ({"mode": "dynamic"}, 0.005, 0.35),
    "int8 weights": ({"mode": "weights"}, 0.005, 0.40),
    "int4": ({"dtype": "int4"}, 0.01, 0.30),
    "int4 symmetric": ({"dtype": "int4", "symmetric": True, "blockSize": 16}, 0.01, 0.30),
    "int2": ({"dtype": "int2", "blockSize": 16}, 0.05, 0.25),
    "fp16": ({"dtype": "fp16"}, 0.0, 0.60),
    "bf16": ({"dtype": "bf16"}, 0.005, 0.60),
    "fp8e4m3": ({"dtype": "fp8e4m3"}, 0.01, 0.35),
    "fp8e5m2": ({"dtype": "fp8e5m2"}, 0.02, 0.35),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_model_made_smaller_passes_its_gate_and_predicts(target: Target, namespace: str, method: str) -> None:
    quantize, drop, ratio = METHODS[method]
    manifest = yaml.safe_load(manifest_of(target, EXAMPLES / "digits/v1.yaml"))
    spec = manifest["spec"]
    spec["optimization"]["passes"] = [{"convert": {"to": "onnx"}}, {"quantize": quantize}]
    spec["evaluation"]["metrics"] = [
        {"name": "accuracy", "min": 0.9, "maxDrop": drop},
        {"name": "agreement", "maxDrop": 0.1},
        {"name": "sizeBytes", "maxRatio": ratio},
    ]
    spec["replicas"] = 1
    road = Road(target, namespace)

    road.apply_manifest(yaml.safe_dump(manifest), "Healthy")

    rows, labels = held_out()
    with forwarded(target, namespace, 9000) as port:
        served = float((grpc_logits(port, rows).argmax(1) == labels).mean())
    measured = {item["name"]: item for item in road.status()["evaluation"]["metrics"]}
    assert abs(served - measured["accuracy"]["value"]) <= 0.002
    assert measured["sizeBytes"]["ratio"] <= ratio
