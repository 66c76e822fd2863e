"""A result beside its source: metrics of the same rows, each with what is known of how far it can be trusted."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trimtab_api.report import METRIC_ACCURACY, METRIC_AGREEMENT, METRIC_COSINE, METRIC_RECALL, MeasuredMetric
from trimtab_optimizer.measuring.answers import Answers
from trimtab_optimizer.measuring.significance import Paired, pair, wilson_interval
from trimtab_optimizer.measuring.similarity import NEIGHBOURS, Rows, mean_cosine, recall_of_neighbours

Details = Mapping[str, Mapping[str, Any]]

_Found = float | str  # a figure, or why there is none
_UNLIKE: Final = "source and result answer in different shapes"
_NO_NUMBER: Final = "the answers hold values that are no numbers"
_NO_DIRECTION: Final = "the first output has one value a row, and so no direction"
_FEW_ROWS: Final = f"looks for the {NEIGHBOURS} nearest rows and needs more than {NEIGHBOURS + 1} of them"


def compare_answers(source: Answers, result: Answers) -> tuple[MeasuredMetric, ...]:
    """Return every metric of the answers, accuracy and agreement first."""
    found = {name: _alone(name, source, result) for name in result.scores}
    found |= {name: _beside(name, source, result) for name in result.compared}
    names = dict.fromkeys([name for name in (METRIC_ACCURACY, METRIC_AGREEMENT) if name in found] + [*found])
    return tuple(found[name] for name in names)


def details_of(source: Answers, result: Answers) -> Details:
    """Return what report.json says of metrics beyond their figures."""
    reasons = {name: _COMPARE[name](source, result) for name in result.compared}
    notes = {**result.notes, **{name: why for name, why in reasons.items() if isinstance(why, str)}}
    found: dict[str, dict[str, Any]] = {name: {"note": note} for name, note in notes.items()}
    paired = _paired(source, result)
    if paired and source.right is not None:
        low, high = interval(source.right)
        counts = {"onlySource": paired.only_source, "onlyResult": paired.only_result}
        found[METRIC_ACCURACY] = {"sourceLow": low, "sourceHigh": high, **counts}
    return found


def rounded(value: float | None) -> float | None:
    """Return a figure as it is told: six places, which keeps the termination message short."""
    return None if value is None else round(value, 6)


def interval(right: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the 95 % interval of the share of right rows."""
    low, high = wilson_interval(int(right.sum()), len(right))
    return round(low, 6), round(high, 6)


def _alone(name: str, source: Answers, result: Answers) -> MeasuredMetric:
    found = MeasuredMetric(name=name, value=rounded(result.scores[name]), source=rounded(source.scores.get(name)))
    paired = _paired(source, result)
    if name != METRIC_ACCURACY or paired is None or result.right is None:
        return found
    low, high = interval(result.right)
    return found.model_copy(update={"low": low, "high": high, "p_value": paired.p_value})


def _beside(name: str, source: Answers, result: Answers) -> MeasuredMetric:
    found = _COMPARE[name](source, result)
    if isinstance(found, str):
        return MeasuredMetric(name=name)
    return MeasuredMetric(name=name, value=rounded(found), source=1.0)  # the source is like itself


def _paired(source: Answers, result: Answers) -> Paired | None:
    if source.right is None or result.right is None:
        return None
    return pair(source.right, result.right)


def _agreement(source: Answers, result: Answers) -> _Found:
    if source.classes is None or result.classes is None:
        return result.notes.get(METRIC_AGREEMENT) or source.notes.get(METRIC_AGREEMENT) or _UNLIKE
    return float(((source.classes == result.classes) & (result.classes >= 0)).mean())


def _cosine(source: Answers, result: Answers) -> _Found:
    return _unlike(source, result) or mean_cosine(*_vectors(source, result))


def _recall(source: Answers, result: Answers) -> _Found:
    one, other = _vectors(source, result)
    few = _FEW_ROWS if len(one) <= NEIGHBOURS + 1 else ""
    return _unlike(source, result) or few or recall_of_neighbours(one, other)


def _unlike(source: Answers, result: Answers) -> str:
    """Return why directions cannot be compared, or nothing."""
    one, other = _vectors(source, result)
    if one.shape != other.shape:
        return _UNLIKE
    if one.shape[1] < 2:
        return _NO_DIRECTION
    return "" if np.isfinite(one).all() and np.isfinite(other).all() else _NO_NUMBER


def _vectors(source: Answers, result: Answers) -> tuple[Rows, Rows]:
    none = np.empty((0, 0), np.float32)
    one, other = (none if answers.vectors is None else answers.vectors for answers in (source, result))
    return one, other


_COMPARE: Final[Mapping[str, Callable[[Answers, Answers], _Found]]] = MappingProxyType(
    {METRIC_AGREEMENT: _agreement, METRIC_COSINE: _cosine, METRIC_RECALL: _recall}
)
