"""Nothing is fitted to one architecture: a transformer over a table goes the same road."""

import json

from callers import Callers
from install import EXAMPLES, manifest_of, push_example
from road import Road
from target import Target
from trimtab_testing.conditions import batching_safe


def test_a_transformer_is_made_int8_passes_its_gate_and_answers(target: Target, namespace: str) -> None:
    push_example(target, "attention")
    road = Road(target, namespace, "attention")

    road.apply_manifest(manifest_of(target, EXAMPLES / "attention/v1.yaml"), "Healthy")

    status = road.status()
    size = next(item for item in status["evaluation"]["metrics"] if item["name"] == "sizeBytes")
    assert [item["name"] for item in status["optimization"]["passes"]] == ["convert", "quantize"]
    assert status["evaluation"]["passed"] is True
    assert size["ratio"] < 0.5
    assert batching_safe(road) == "False"  # dynamic int8: all rows of a batch share one scale
    with Callers(target, namespace, service="attention") as callers:
        answer = json.loads(callers.ask([[0.0] * 30, [2.0] * 30]))
    assert [item["label"] for item in answer["predictions"]] == ["benign", "malignant"]
