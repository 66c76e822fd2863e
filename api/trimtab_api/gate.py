"""The gate: figures measured offline against the limits of the spec.

A figure that is absent or not a number gives no verdict, and no verdict is never a pass.
"""

import math
from dataclasses import dataclass

from trimtab_api.report import MeasuredMetric
from trimtab_api.spec import Evaluation, GateMetric


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
        return GateRow(limit.name, None, source, None, f"{limit.name} could not be computed; see report.json")
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
