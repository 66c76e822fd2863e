"""The examples are what they say: specs that parse, training that repeats itself."""

import filecmp
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from trimtab_api.group import API_VERSION, MODEL_DEPLOYMENT
from trimtab_api.plan import make_plan
from trimtab_api.spec import ModelDeploymentSpec
from trimtab_optimizer.passes import check_order

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_an_example_spec_parses_and_can_be_planned(path: Path) -> None:
    document = yaml.safe_load(path.read_text())

    assert (document["apiVersion"], document["kind"]) == (API_VERSION, MODEL_DEPLOYMENT)
    check_order(make_plan(ModelDeploymentSpec.parse(document["spec"])))


def test_training_writes_the_same_bytes_each_time(digits_build: Path, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, EXAMPLES / "digits" / "train.py", "--out", tmp_path], check=True, capture_output=True
    )

    for part in ("model", "data-train", "data-test"):
        names = sorted(path.name for path in (digits_build / part).iterdir())
        assert filecmp.cmpfiles(digits_build / part, tmp_path / part, names, shallow=False)[0] == names
