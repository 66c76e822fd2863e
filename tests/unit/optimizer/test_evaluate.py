"""What is measured follows from the data and the model, of the source and of what is made of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trimtab_optimizer.package import load_package
from trimtab_optimizer.predict import predictor_of

Write = Callable[..., Path]
Always = ["latencyP95Ms", "sizeBytes"]

TOKENS_CODE = (
    "from torch import nn\n\n\nclass Tokens(nn.Linear):\n    def forward(self, x):\n"
    "        return super().forward(x).unsqueeze(1).expand(-1, 2, -1) * 1.0\n\n\n"
    "def build():\n    return Tokens(4, 3)\n"
)


@pytest.fixture
def measured(
    linear_package: Write, data_package: Write, publish: Callable[..., str], run_job: Callable[..., Any]
) -> Callable[..., dict[str, Any]]:
    """Run the Job of the linear model, converted, and return its metrics; arguments change data and package."""

    def run(label: Any, **package: Any) -> dict[str, Any]:
        uris = publish(linear_package(**package), "models/m"), publish(data_package(label=label), "data/m")
        answer = run_job({"source": {"uri": uris[0]}, "passes": [{"convert": {}}], "evaluationData": uris[1]})
        assert answer.failure is None
        return {item.name: item for item in answer.result.metrics}

    return run


def test_classes_are_measured_by_accuracy_and_agreement(measured: Callable[..., dict[str, Any]]) -> None:
    found = measured(np.arange(20) % 3)

    assert list(found) == ["accuracy", "agreement", *Always]
    assert found["accuracy"].low < found["accuracy"].value < found["accuracy"].high
    assert (found["accuracy"].p_value, found["agreement"].value) == (1.0, 1.0)


def test_values_are_measured_by_their_errors(measured: Callable[..., dict[str, Any]], linear_package: Write) -> None:
    rows = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    exact = predictor_of(load_package(linear_package()), False).predict({"x": rows})[0]

    found = measured(exact + np.float32(0.5))

    assert list(found) == ["rmse", "meanAbsoluteError", *Always]
    assert (found["rmse"].value, found["meanAbsoluteError"].source) == pytest.approx((0.5, 0.5), abs=1e-5)


def test_answers_without_labels_are_compared_with_those_of_the_source(measured: Callable[..., dict[str, Any]]) -> None:
    found = measured(None)

    assert list(found) == ["accuracy", "agreement", "cosine", "recallAt10", *Always]
    assert [found[name].value for name in ("accuracy", "agreement", "cosine", "recallAt10")] == [None, 1.0, 1.0, 1.0]
    assert found["cosine"].source == found["recallAt10"].source == 1.0


def test_tokens_are_measured_by_perplexity(measured: Callable[..., dict[str, Any]]) -> None:
    outputs = [{"name": "y", "shape": [-1, 2, 3]}]
    label = np.stack([np.arange(20) % 3, np.full(20, -100)], axis=1)

    found = measured(label, code=TOKENS_CODE, outputs=outputs)

    assert list(found) == ["perplexity", *Always]
    assert found["perplexity"].value == pytest.approx(found["perplexity"].source, rel=1e-5)
    assert found["perplexity"].value > 1


def test_the_report_tells_of_each_metric_what_stands_behind_it(
    digits: dict[str, str], run_job: Callable[..., Any], report_of: Callable[[Any], Any]
) -> None:
    passes = [{"convert": {}}, {"quantize": {"dtype": "int2", "blockSize": 16}}]
    answer = run_job({"source": {"uri": digits["model"]}, "passes": passes, "evaluationData": digits["test"]})

    report = report_of(answer)
    accuracy = report["metrics"][0]
    differ = accuracy["onlySource"] - accuracy["onlyResult"]
    assert differ == round(540 * (accuracy["source"] - accuracy["value"]))
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    assert accuracy["sourceLow"] < accuracy["source"] < accuracy["sourceHigh"]
    assert accuracy["pValue"] == answer.result.metrics[0].p_value
    for item in report["passes"]:
        assert {"accuracy", "agreement", "latencyP95Ms", "latencyBatchP95Ms"} <= set(item["metrics"])
