"""What of an answer is explained, and how far the time goes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from safetensors.numpy import save_file

from trimtab_api.errors import InvalidData
from trimtab_explainer.background import read_background
from trimtab_explainer.explain import Asked, Explainer, Explanation, Limit
from trimtab_runtime.model.session import Model, load_model
from trimtab_runtime.protocol.errors import BadRequest, Late

LABELS = ["setosa", "versicolor", "virginica"]


def explain(model: Model, rows: Any, name: str = "x", **asked: Any) -> list[Explanation]:
    settings = {"method": "shap", "samples": 200, "seconds": 60.0, **asked}
    explainer = Explainer(model, {})
    return explainer.explain({name: np.asarray(rows, np.float32)}, Asked(**settings), Limit(explainer.clock() + 60))


@pytest.fixture
def classes(models: Any) -> Model:
    """Answers the number of the largest column, as classifiers of scikit-learn do."""
    node = helper.make_node("ArgMax", ["x"], ["y"], axis=1, keepdims=0)
    shapes = {"x": ("FP32", (-1, 3))}, {"y": ("INT64", (-1,))}
    return load_model(models.write("classes", [node], *shapes, manifest={"labels": LABELS}), threads=1)


def test_of_a_class_it_is_explained_why_it_is_answered_and_no_other(classes: Model) -> None:
    (one,) = explain(classes, [[1.0, 2.0, 9.0]], samples=1000)
    assert (one.target, one.label, one.prediction) == (2, "virginica", 1.0)
    assert one.attribution.base + one.attribution.values.sum() == pytest.approx(1.0)
    assert int(one.attribution.values.argmax()) == 2
    (other,) = explain(classes, [[1.0, 2.0, 9.0]], target="versicolor")
    assert (other.target, other.label, other.prediction) == (1, "versicolor", 0.0)


def test_a_score_without_a_label_of_its_own_has_none(models: Any) -> None:
    folder = models.scores("one", labels=["benign", "malignant", "other"])
    (one,) = explain(load_model(folder, threads=1), [[1.0, 2.0, 3.0]])
    assert one.label is None


def test_inputs_of_different_rows_are_refused(models: Any) -> None:
    explainer = Explainer(load_model(models.two_inputs(), threads=1), {})
    feeds = {"a": np.zeros((1, 2), np.int64), "b": np.zeros((3, 2), np.int64)}
    with pytest.raises(BadRequest, match="every input needs the same number of rows"):
        explainer.explain(feeds, Asked("shap", 100, 1.0), Limit(explainer.clock() + 1))


def test_answers_that_are_no_numbers_are_refused(models: Any) -> None:
    with pytest.raises(BadRequest, match="the model answers nan to this row"):
        explain(load_model(models.scores(), threads=1), [[np.nan] * 3])


@dataclass
class SlowFrom:
    """A model whose runs take a second each from its first row with a number below 0 on, by a clock of its own."""

    model: Model
    now: float = 0.0
    is_slow: bool = False

    @property
    def package(self) -> Any:
        return self.model.package

    def run(self, feeds: Any) -> Any:
        self.is_slow = self.is_slow or bool(feeds["x"].min() < 0)
        self.now += self.is_slow
        return self.model.run(feeds)


def test_rows_that_were_explained_in_time_are_told_though_others_were_not(models: Any) -> None:
    slow: Any = SlowFrom(load_model(models.scores(), threads=1))
    explainer = Explainer(slow, {}, clock=lambda: slow.now)
    rows = {"x": np.array([[1, 2, 3], [-1, 2, 3]], np.float32)}
    found = explainer.explain(rows, Asked("shap", 100, 1.5), Limit(1.5))
    assert len(found) == 1
    with pytest.raises(Late):
        explainer.explain({"x": rows["x"][1:]}, Asked("shap", 100, 1.5), Limit(slow.now + 0.5))


def test_a_caller_that_left_is_computed_no_further(models: Any) -> None:
    explainer = Explainer(load_model(models.scores(), threads=1), {})
    with pytest.raises(Late):
        explainer.explain(
            {"x": np.ones((1, 3), np.float32)}, Asked("shap", 100, 9.0), Limit(explainer.clock() + 9, lambda: True)
        )


@pytest.mark.parametrize("kind", ["npz", "safetensors", "compressed"])
def test_a_background_is_a_few_rows_of_either_kind_of_data(models: Any, tmp_path: Path, kind: str) -> None:
    package = load_model(models.scores(), threads=1).package
    rows = np.arange(3000, dtype=np.float32).reshape(1000, 3)
    arrays = {"x": rows, "label": np.zeros(1000, np.int64)}
    if kind == "safetensors":
        save_file(arrays, tmp_path / "data.safetensors")
    else:
        (np.savez_compressed if kind == "compressed" else np.savez)(tmp_path / "data.npz", **arrays)
    found = read_background(tmp_path, package, 8)
    assert list(found) == ["x"]
    assert found["x"].shape == (8, 3)
    assert all((rows == row).all(axis=1).any() for row in found["x"])
    assert len({tuple(row) for row in found["x"]}) == 8


def test_a_background_that_cannot_be_read_says_so(models: Any, tmp_path: Path) -> None:
    package = load_model(models.scores(), threads=1).package
    for content in (b"nothing", b""):
        (tmp_path / "data.npz").write_bytes(content)
        with pytest.raises(InvalidData, match=r"data.npz cannot be read"):
            read_background(tmp_path, package, 8)
    np.savez(tmp_path / "data.npz", x=np.array([[object()] * 3]))
    with pytest.raises(InvalidData, match=r"data.npz cannot be read"):
        read_background(tmp_path, package, 8)
