"""A collection is checked model by model, and its artifact is what a server serves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimtab_api.errors import InvalidPackage, PassFailed
from trimtab_api.plan import Plan
from trimtab_api.spec import ModelFormat, ModelSource
from trimtab_optimizer.importers import import_source
from trimtab_optimizer.package import load_package, write_package
from trimtab_optimizer.passes import check_order
from trimtab_testing.servers import Models

URI = "oci://registry.local:5000/models/several:v1"
Several = Callable[[], Path]


@pytest.fixture
def several(tmp_path: Path) -> Several:
    """A collection of two versions of a model, and another one."""
    models = Models(tmp_path / "models")

    def write() -> Path:
        packages = {("scores", "1"): models.scores(), ("scores", "2"): models.scores("other"), ("sums", None): None}
        found = {key: package or models.two_inputs() for key, package in packages.items()}
        return models.collection("several", found)

    return write


def imported(folder: Path, target: Path) -> Any:
    return import_source(ModelSource(uri=URI, format=ModelFormat.COLLECTION), folder, target)


def test_a_plan_publishes_all_models_with_their_sums(
    several: Several, publish: Any, run_job: Any, directory_store: Any, tmp_path: Path
) -> None:
    plan = {"source": {"uri": publish(several(), "models/several"), "format": "collection"}, "passes": []}

    answer = run_job(plan)

    assert answer.result, answer.failure
    directory_store.pull(f"oci://{answer.result.artifact}", tmp_path / "artifact")
    package = load_package(tmp_path / "artifact").package
    assert [(item.name, item.version) for item in package.models or ()] == [
        ("scores", "1"),
        ("scores", "2"),
        ("sums", None),
    ]
    sums = (tmp_path / "artifact/SHA256SUMS").read_text()
    assert all(f"{item.folder}/model.onnx" in sums for item in package.models or ())
    metrics = {item.name: item for item in answer.result.metrics}
    sizes = [path.stat().st_size for path in (tmp_path / "artifact").glob("models/*/model.onnx")]
    assert metrics["sizeBytes"].value >= sum(sizes)
    assert metrics["latencyP95Ms"].value is None


def test_a_model_that_is_wrong_is_named(several: Several, tmp_path: Path) -> None:
    folder = several()
    inner = load_package(folder / "models/1")
    wrong = tuple(item.model_copy(update={"name": "wrong"}) for item in inner.package.inputs)
    write_package(inner.folder, inner.package.model_copy(update={"inputs": wrong}))
    with pytest.raises(
        InvalidPackage, match=r"the model in models/1: the graph has the inputs \['x'\], model.yaml says"
    ):
        imported(folder, tmp_path / "out")


def test_what_would_have_to_be_converted_is_refused(several: Several, linear_package: Any, tmp_path: Path) -> None:
    folder = several()
    linear = linear_package()
    linear.rename(folder / "linear")
    package = load_package(folder).package
    (first, *others) = package.models or ()
    listed = (first.model_copy(update={"folder": "linear"}), *others)
    write_package(folder, package.model_copy(update={"models": listed}))
    with pytest.raises(
        InvalidPackage, match="the model in linear: it has the format pytorch, and a collection is served"
    ):
        imported(folder, tmp_path / "out")


def test_a_folder_that_is_not_there_or_a_link_out_of_the_package_is_refused(several: Several, tmp_path: Path) -> None:
    folder = several()
    (folder / "models/0").rename(tmp_path / "elsewhere")
    with pytest.raises(InvalidPackage, match=r"the package has no file `models/0/model.yaml`"):
        imported(folder, tmp_path / "missing")
    (folder / "models/0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidPackage, match=r"`models/0/model.yaml` is a link"):
        imported(folder, tmp_path / "linked")


def test_data_for_all_models_together_is_refused_before_anything_runs() -> None:
    source = {"uri": URI, "format": "collection"}
    with pytest.raises(PassFailed, match="the models of a collection have no common data; remove evaluation"):
        check_order(Plan.parse({"source": source, "passes": [], "evaluationData": "oci://r/data:v1"}))
    with pytest.raises(PassFailed, match=r"it needs a model in .*, not a collection"):
        check_order(Plan.parse({"source": source, "passes": [{"quantize": {}}]}))
