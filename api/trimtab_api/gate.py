"""The gate: figures measured offline against the limits of the spec.

A figure that is absent or not a number gives no verdict, and no verdict is never a pass.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from trimtab_api.report import (
    METRIC_ACCURACY,
    METRIC_AGREEMENT,
    METRIC_COSINE,
    METRIC_MEAN_ABSOLUTE_ERROR,
    METRIC_PERPLEXITY,
    METRIC_RECALL,
    METRIC_RMSE,
    MeasuredMetric,
)
from trimtab_api.spec import Evaluation, GateMetric

_LABEL: Final = "the array `label` in the evaluation data"
# What has to be there for a figure, for the message of one that is not.
_NEEDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        METRIC_ACCURACY: f"{_LABEL}, the class of each row as integers, and a first output [rows, classes]",
        METRIC_AGREEMENT: "a first output [rows, classes]",
        METRIC_RMSE: f"{_LABEL}, floats of the shape of the first output",
        METRIC_MEAN_ABSOLUTE_ERROR: f"{_LABEL}, floats of the shape of the first output",
        METRIC_PERPLEXITY: f"{_LABEL}, integers [rows, tokens], and a first output [rows, tokens, vocabulary]",
        METRIC_COSINE: "evaluation data without `label`, and floats as the first output",
        METRIC_RECALL: "evaluation data of 12 rows or more without `label`, and floats as the first output",
    }
)


@dataclass(frozen=True, slots=True)
class GateRow:
    """One limit with its figure. `passed` is None where there is no verdict."""

    name: str
    value: float | None
    source: float | None
    passed: bool | None
    message: str


@dataclass(frozen=True, slots=True)
class Gate:
    """The verdict over all limits: True only if each was met, None if one could not be computed and none was missed."""

    passed: bool | None
    rows: tuple[GateRow, ...] = ()

    @property
    def message(self) -> str:
        """Return the reasons of a verdict that is not a pass."""
        return "; ".join(row.message for row in self.rows if row.passed is not True)


def judge(evaluation: Evaluation | None, measured: tuple[MeasuredMetric, ...]) -> Gate:
    """Hold the figures against the limits. Without an evaluation there is nothing to fail."""
    if evaluation is None:
        return Gate(passed=True)
    figures = {item.name: item for item in measured}
    rows = tuple(_judge_one(limit, figures.get(limit.name)) for limit in evaluation.metrics)
    verdicts = [row.passed for row in rows]
    return Gate(passed=False if False in verdicts else None if None in verdicts else True, rows=rows)


def _judge_one(limit: GateMetric, figure: MeasuredMetric | None) -> GateRow:
    value = figure.value if figure else None
    source = figure.source if figure else None
    if not _is_number(value):
        needs = f"it needs {_NEEDS[limit.name]}" if limit.name in _NEEDS else "see report.json"
        return GateRow(limit.name, None, source, None, f"{limit.name} could not be computed; {needs}")
    complaints = [text for text in _complaints(limit, float(value or 0), source) if text]
    undecided = _needs_source(limit) and not _is_number(source)
    if undecided:
        complaints.append(f"{limit.name} of the source could not be computed, so there is nothing to compare with")
    passed = None if undecided and len(complaints) == 1 else not complaints
    return GateRow(limit.name, value, source, passed, "; ".join(complaints))


def _complaints(limit: GateMetric, value: float, source: float | None) -> list[str]:
    found = []
    if limit.min is not None and value < limit.min:
        found.append(f"{limit.name} is {value:.6g}, below the minimum {limit.min:.6g}")
    if limit.max is not None and value > limit.max:
        found.append(f"{limit.name} is {value:.6g}, above the maximum {limit.max:.6g}")
    if source is None or not _is_number(source):
        return found
    if limit.max_drop is not None and source - value > limit.max_drop:
        found.append(
            f"{limit.name} fell by {source - value:.6g} from {source:.6g}; at most {limit.max_drop:.6g} is allowed"
        )
    if limit.max_ratio is not None and value > limit.max_ratio * source:
        found.append(f"{limit.name} is {value:.6g}, above {limit.max_ratio:.6g} times the source's {source:.6g}")
    return found


def _needs_source(limit: GateMetric) -> bool:
    return limit.max_drop is not None or limit.max_ratio is not None


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
