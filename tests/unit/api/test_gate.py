"""The gate: each limit on each figure, and no verdict where a figure is missing."""

import math
from typing import Any

import pytest

from trimtab_api.gate import Gate, judge
from trimtab_api.report import MeasuredMetric
from trimtab_api.spec import Evaluation


def verdict(limit: dict[str, Any], value: float | None, source: float | None = None) -> Gate:
    evaluation = Evaluation.parse({"data": "oci://r/d:v1", "metrics": [{"name": "accuracy", **limit}]})
    return judge(evaluation, (MeasuredMetric(name="accuracy", value=value, source=source),))


@pytest.mark.parametrize(
    ("limit", "value", "source", "passed"),
    [
        ({"min": 0.9}, 0.9, None, True),
        ({"min": 0.9}, 0.8999, None, False),
        ({"max": 0.9}, 0.9, None, True),
        ({"max": 0.9}, 0.9001, None, False),
        ({"maxDrop": 0.25}, 0.5, 0.75, True),
        ({"maxDrop": 0.25}, 0.4999, 0.75, False),
        ({"maxDrop": 0.0}, 0.8, 0.75, True),
        ({"maxRatio": 0.5}, 40, 80, True),
        ({"maxRatio": 0.5}, 41, 80, False),
        ({"min": 0.9, "maxDrop": 0.01}, 0.95, 0.99, False),
    ],
)
def test_a_limit_is_met_or_missed(limit: dict[str, Any], value: float, source: float | None, passed: bool) -> None:
    assert verdict(limit, value, source).passed is passed


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_a_figure_that_is_no_number_is_no_verdict(value: float | None) -> None:
    gate = verdict({"min": 0.1}, value)

    assert gate.passed is None
    assert "could not be computed" in gate.message


@pytest.mark.parametrize("source", [None, math.nan])
@pytest.mark.parametrize("limit", [{"maxDrop": 0.1}, {"maxRatio": 2.0}])
def test_a_comparison_without_the_source_is_no_verdict(limit: dict[str, Any], source: float | None) -> None:
    gate = verdict(limit, 0.9, source)

    assert gate.passed is None
    assert "nothing to compare with" in gate.message


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("accuracy", "`label` in the evaluation data, the class of each row as integers"),
        ("rmse", "`label` in the evaluation data, floats"),
        ("perplexity", "`label` in the evaluation data, integers [rows, tokens]"),
        ("recallAt10", "12 rows or more without `label`"),
        ("f1", "see report.json"),
    ],
)
def test_a_figure_that_was_not_measured_is_no_verdict_and_the_message_says_what_it_needs(
    name: str, needed: str
) -> None:
    evaluation = Evaluation.parse({"data": "oci://r/d:v1", "metrics": [{"name": name, "min": 0}]})

    gate = judge(evaluation, (MeasuredMetric(name="sizeBytes", value=1),))

    assert gate.passed is None
    assert gate.message.startswith(f"{name} could not be computed; ")
    assert needed in gate.message


def test_a_missed_limit_fails_even_where_another_has_no_verdict() -> None:
    assert verdict({"min": 0.95, "maxDrop": 0.1}, 0.9, None).passed is False


def test_a_metric_that_was_never_measured_is_no_verdict() -> None:
    evaluation = Evaluation.parse({"data": "oci://r/d:v1", "metrics": [{"name": "accuracy", "min": 0.1}]})

    assert judge(evaluation, ()).passed is None


def test_without_an_evaluation_there_is_nothing_to_fail() -> None:
    assert judge(None, ()).passed is True


def test_the_message_names_every_missed_limit_with_its_figures() -> None:
    assert verdict({"min": 0.95, "maxDrop": 0.01}, 0.9, 0.97).message == (
        "accuracy is 0.9, below the minimum 0.95; accuracy fell by 0.07 from 0.97; at most 0.01 is allowed"
    )
