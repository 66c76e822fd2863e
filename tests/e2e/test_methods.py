"""Every way to make a model smaller goes the whole road: from YAML through its Job and its gate to predictions."""

import pytest
import yaml

from install import EXAMPLES, manifest_of
from road import Road
from target import Target
from trimtab_testing.methods import methods
from trimtab_testing.predictions import forwarded, grpc_logits, held_out


@pytest.fixture(scope="module")
def with_tensorflow() -> bool:
    return True


@pytest.mark.parametrize("name", methods())
def test_a_model_made_smaller_passes_its_gate_and_predicts(target: Target, namespace: str, name: str) -> None:
    method = methods(registry=target.registry.known_as)[name]
    manifest = yaml.safe_load(manifest_of(target, EXAMPLES / "digits/v1.yaml"))
    manifest["spec"] |= {"optimization": method.optimization, "replicas": 1}
    manifest["spec"]["evaluation"]["metrics"] = method.gate()
    road = Road(target, namespace)

    road.apply_manifest(yaml.safe_dump(manifest), "Healthy")

    rows, labels = held_out()
    with forwarded(target, namespace, 9000) as port:
        served = float((grpc_logits(port, rows).argmax(1) == labels).mean())
    status = road.status()
    measured = {item["name"]: item for item in status["evaluation"]["metrics"]}
    assert abs(served - measured["accuracy"]["value"]) <= 0.002
    assert measured["sizeBytes"]["ratio"] <= method.max_ratio
    assert ("search" in status["optimization"]) == ("search" in method.optimization)
