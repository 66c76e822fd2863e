"""A model that comes as an exported program, or as TorchScript by opt-in, goes the same road as a PyTorch package."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from install import EXAMPLES, manifest_of, push, trained
from road import Road
from target import Target
from trimtab_testing.formats import taken_over
from trimtab_testing.predictions import forwarded, grpc_logits, held_out, torch_logits


@pytest.mark.parametrize("kind", ["torch-export", "torchscript"])
def test_a_model_without_code_of_its_own_answers_what_torch_does(
    target: Target, namespace: str, kind: str, tmp_path: Path
) -> None:
    uri = push(target, taken_over(trained("digits") / "model", kind, tmp_path / kind), f"models/digits-{kind}:v1")
    manifest = yaml.safe_load(manifest_of(target, EXAMPLES / "digits/v1.yaml"))
    manifest["spec"]["model"] = {"uri": uri, "format": kind, "allowPickle": kind == "torchscript"}
    manifest["spec"]["replicas"] = 1
    road = Road(target, namespace)

    road.apply_manifest(yaml.safe_dump(manifest), "Healthy")

    rows, _ = held_out()
    with forwarded(target, namespace, 9000) as port:
        served = grpc_logits(port, rows)
    assert np.abs(served - torch_logits(rows)).max() < 1e-4
