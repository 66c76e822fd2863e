"""Measure a model: accuracy and agreement on data, the time of one row, the size on disk.

Source and result go through the same code. What cannot be computed is absent, with a note that says why: an absent
figure is no verdict, and no verdict is never a pass.
"""

import time
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trimtab_api.report import (
    METRIC_ACCURACY,
    METRIC_AGREEMENT,
    METRIC_LATENCY_P95,
    METRIC_SIZE,
    MeasuredMetric,
)
from trimtab_optimizer.data import Dataset
from trimtab_optimizer.package import Model
from trimtab_optimizer.predict import Predictor, one_thread, predictor_of
from trimtab_optimizer.tensors import Arrays, example_inputs

_BATCH: Final = 64
_WARM_UP: Final = 5
_CALLS: Final = 200
_FEWEST_CALLS: Final = 50
_ENOUGH_MS: Final = 10_000.0  # a slow model is not called more often than it takes
_NO_DATA: Final = "no evaluation data: set spec.evaluation.data"
_NO_CLASSES: Final = "the first output is no table of classes [rows, classes >= 2], so it has no largest class"


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one model. `classes` is the largest class of each row, or None."""

    size_bytes: int
    latency_p95_ms: float
    accuracy: float | None = None
    classes: NDArray[np.int64] | None = None
    notes: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, float]:
        """Return the figures for the report."""
        found = {METRIC_LATENCY_P95: round(self.latency_p95_ms, 6), METRIC_SIZE: float(self.size_bytes)}
        return found if self.accuracy is None else {METRIC_ACCURACY: round(self.accuracy, 6), **found}


def measure(model: Model, data: Dataset | None, allow_pickle: bool, seed: int) -> Figures:
    """Measure one model on one thread. Without data, times are taken on made-up rows."""
    with one_thread():
        predictor = predictor_of(model, allow_pickle)
        rows = data.inputs if data else example_inputs(model.package.inputs, _BATCH, seed)
        latency = _latency_p95(predictor, rows)
        if data is None:
            return Figures(model.size_bytes(), latency, notes={METRIC_ACCURACY: _NO_DATA, METRIC_AGREEMENT: _NO_DATA})
        classes = _classes(predictor, data)
    if classes is None:
        notes = {METRIC_ACCURACY: _NO_CLASSES, METRIC_AGREEMENT: _NO_CLASSES}
        return Figures(model.size_bytes(), latency, notes=notes)
    accuracy = float((classes == data.labels).mean()) if data.labels is not None else None
    return Figures(model.size_bytes(), latency, accuracy, classes)


def compare(source: Figures, result: Figures) -> tuple[MeasuredMetric, ...]:
    """Return the four metrics of a result beside those of its source, which agrees with itself by 1."""
    agreement = _round(_agreement(source, result))
    return (
        MeasuredMetric(name=METRIC_ACCURACY, value=_round(result.accuracy), source=_round(source.accuracy)),
        MeasuredMetric(name=METRIC_AGREEMENT, value=agreement, source=None if agreement is None else 1.0),
        MeasuredMetric(
            name=METRIC_LATENCY_P95, value=_round(result.latency_p95_ms), source=_round(source.latency_p95_ms)
        ),
        MeasuredMetric(name=METRIC_SIZE, value=result.size_bytes, source=source.size_bytes),
    )


def _agreement(source: Figures, result: Figures) -> float | None:
    if source.classes is None or result.classes is None:
        return None
    return float(((source.classes == result.classes) & (result.classes >= 0)).mean())


def _classes(predictor: Predictor, data: Dataset) -> NDArray[np.int64] | None:
    found = []
    for batch in data.batches(_BATCH):
        scores = predictor.predict(batch)[0]
        if scores.ndim != 2 or scores.shape[1] < 2:
            return None
        found.append(_largest(scores))
    return np.concatenate(found)


def _largest(scores: NDArray[Any]) -> NDArray[np.int64]:
    """Return the largest class per row; a row with a value that is no number agrees with nothing: -1."""
    broken = ~np.isfinite(scores.astype(np.float64)).all(axis=1)
    return np.where(broken, -1, scores.argmax(axis=1)).astype(np.int64)


def latency_ratio(before: Model, after: Model, data: Dataset | None, allow_pickle: bool, seed: int) -> float:
    """Return how long a row takes `after`, in parts of `before`: medians of calls in turns, so that noise hits both."""
    with one_thread():
        predictors = [predictor_of(model, allow_pickle) for model in (before, after)]
        singles = _singles(data.inputs if data else example_inputs(before.package.inputs, _BATCH, seed))
        spent: tuple[list[float], list[float]] = ([], [])
        for n in range(_WARM_UP + _FEWEST_CALLS):
            for predictor, times in zip(predictors, spent, strict=True):
                times.append(_cpu_ms(predictor, singles[n % len(singles)]))
    first, second = (float(np.median(times[_WARM_UP:])) for times in spent)
    return second / first


def _latency_p95(predictor: Predictor, rows: Arrays) -> float:
    """Return the 95th percentile of process CPU milliseconds of calls with one row.

    CPU time and not the clock, so that a busy node does not decide over a gate.
    """
    singles = _singles(rows)
    for n in range(_WARM_UP):
        predictor.predict(singles[n % len(singles)])
    spent: list[float] = []
    while len(spent) < _FEWEST_CALLS or (len(spent) < _CALLS and sum(spent) < _ENOUGH_MS):
        spent.append(_cpu_ms(predictor, singles[len(spent) % len(singles)]))
    return float(np.percentile(spent, 95))


def _singles(rows: Arrays) -> list[Arrays]:
    count = len(next(iter(rows.values())))
    return [{name: values[n : n + 1] for name, values in rows.items()} for n in range(min(count, _CALLS))]


def _cpu_ms(predictor: Predictor, row: Arrays) -> float:
    start = time.process_time_ns()
    predictor.predict(row)
    return (time.process_time_ns() - start) / 1e6


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
