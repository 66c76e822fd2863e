"""A package's own metrics: found in its code, measured on every model of a plan, and refused in words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trimtab_api.errors import InvalidPackage
from trimtab_optimizer.measuring.own import load_metrics
from trimtab_optimizer.package import load_package

Write = Callable[..., Path]

CODE = (
    "from torch import nn\n\n\ndef build():\n    return nn.Linear(4, 3)\n\n\n"
    "def share(outputs, labels):\n    import helper\n\n    return helper.mean(outputs['y'].argmax(1) == labels)\n\n\n"
    "def broken(outputs, labels):\n    raise ValueError('no boxes')\n\n\n"
    "def text(outputs, labels):\n    return 'good'\n\n\n"
    "def nothing(outputs, labels):\n    return float('nan')\n"
)


@pytest.fixture
def package(linear_package: Write) -> Write:
    """Write a package whose code has metrics; arguments name them."""

    def write(**metrics: str) -> Path:
        folder = linear_package(code=CODE, metrics=metrics)
        (folder / "helper.py").write_text("def mean(values):\n    return values.mean()\n")
        return folder

    return write


@pytest.fixture
def job(run_job: Callable[..., Any], publish: Callable[..., str], data_package: Write) -> Callable[[Path], Any]:
    """Run the Job of a package: convert, and measure."""

    def run(folder: Path) -> Any:
        plan = {"source": {"uri": publish(folder, "models/own")}, "passes": [{"convert": {}}]}
        return run_job(plan | {"evaluationData": publish(data_package(), "data/own")})

    return run


def test_a_metric_of_the_package_is_measured_of_source_and_result(package: Write, job: Callable[[Path], Any]) -> None:
    found = {item.name: item for item in job(package(share="linear:share")).result.metrics}

    assert found["share"].value == found["share"].source == found["accuracy"].value


def test_the_artifact_carries_no_code_and_names_no_metric(
    package: Write, job: Callable[[Path], Any], directory_store: Any, tmp_path: Path
) -> None:
    answer = job(package(share="linear:share"))

    directory_store.pull(f"oci://{answer.result.artifact}", tmp_path / "artifact")
    assert load_package(tmp_path / "artifact").package.metrics is None
    assert not list((tmp_path / "artifact").glob("*.py"))


def test_a_metric_that_gives_no_number_is_absent(package: Write, job: Callable[[Path], Any]) -> None:
    found = {item.name: item.value for item in job(package(nothing="linear:nothing")).result.metrics}

    assert found["nothing"] is None


@pytest.mark.parametrize(
    ("metrics", "named"),
    [
        ({"broken": "linear:broken"}, r"metric broken raised ValueError: no boxes; it gets \(outputs by name"),
        ({"text": "linear:text"}, r"metric text raised ValueError: could not convert"),
        ({"lost": "linear:lost"}, r"metric lost linear:lost: linear has no callable `lost`"),
        ({"lost": "elsewhere:f"}, r"metric lost elsewhere:f cannot be imported: ModuleNotFoundError"),
        ({"lost": "json:loads"}, r"metric lost json:loads: `json` is not a module of the package"),
        ({"lost": "linear"}, r"metric lost `linear` is not of the form module:callable"),
        ({"accuracy": "linear:share"}, r"the metric accuracy is built in; give your own another name"),
        ({"memoryBytes": "linear:share"}, r"the metric memoryBytes is built in"),
        ({"F1": "linear:share"}, r"the metric 'F1' needs a name like f1 or wordErrorRate"),
        ({"f-1": "linear:share"}, r"the metric 'f-1' needs a name"),
        ({"a" * 41: "linear:share"}, r"needs a name like f1"),
        ({f"m{n}": "linear:share" for n in range(9)}, r"may have 8 metrics of its own, not 9"),
    ],
)
def test_a_metric_that_cannot_work_is_an_invalid_package(
    package: Write, job: Callable[[Path], Any], metrics: dict[str, str], named: str
) -> None:
    answer = job(package(**metrics))

    assert (answer.code, answer.failure.reason) == (42, "InvalidPackage")
    assert pytest.raises(InvalidPackage, match=named).matches(InvalidPackage(answer.failure.message))


def test_an_onnx_package_has_no_code_and_so_no_metrics(package: Write) -> None:
    folder = package(share="linear:share")
    text = (folder / "model.yaml").read_text().replace("format: pytorch", "format: onnx")
    (folder / "model.yaml").write_text(text)

    with pytest.raises(InvalidPackage, match="only a pytorch package has code, and so `metrics`; remove them"):
        load_package(folder)


def test_metrics_of_two_packages_with_the_same_module_do_not_meet(linear_package: Write) -> None:
    codes = [f"def one(outputs, labels):\n    return {number}\n" for number in (1, 2)]
    folders = [linear_package(code=code, metrics={"one": "linear:one"}) for code in codes]

    found = [load_metrics(load_package(folder))["one"] for folder in folders]

    assert [metric({"y": np.zeros((1, 3))}, None) for metric in found] == [1.0, 2.0]
