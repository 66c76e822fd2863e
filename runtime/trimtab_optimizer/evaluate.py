"""Measure a model: what its answers are worth, the time it takes, the size on disk.

Source and result go through the same code. A graph that is too large for the memory answers layer by layer, untimed.
What cannot be computed is absent, with a note that says why: an absent figure is no verdict, and no verdict is never a
pass.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from numpy.typing import NDArray

from trimtab_api.report import (
    METRIC_ACCURACY,
    METRIC_AGREEMENT,
    METRIC_LATENCY_BATCH_P95,
    METRIC_LATENCY_P95,
    METRIC_SIZE,
    MeasuredMetric,
)
from trimtab_api.spec import ModelFormat
from trimtab_optimizer.data import Dataset
from trimtab_optimizer.labels import Task, task_of
from trimtab_optimizer.measuring.answers import Answers
from trimtab_optimizer.measuring.comparison import Details, compare_answers, details_of, rounded
from trimtab_optimizer.measuring.latency import batch_p95, row_p95, rows_to_time
from trimtab_optimizer.measuring.meters import Classes, Errors, Likelihood, Meter, Vectors
from trimtab_optimizer.measuring.own import Metric, OwnMetrics
from trimtab_optimizer.memory import lacks_memory_by_layers, why_not_run
from trimtab_optimizer.package import Model
from trimtab_optimizer.predict import Predictor, one_thread, predictor_of
from trimtab_optimizer.streaming.segments import answers_of

_BATCH: Final = 64
_BATCH_BY_LAYERS: Final = 16  # rows whose values between two layers are held
_LARGEST_ANSWER: Final = 64 << 20  # bytes of the answers to a batch: a row may give a vocabulary for each token
_NO_DATA: Final = "no evaluation data: set spec.evaluation.data"
_NO_METRICS: Final[Mapping[str, Metric]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one model; without times where there is no memory to run it."""

    size_bytes: int
    latency_p95_ms: float | None
    latency_batch_p95_ms: float | None
    answers: Answers


def measure(
    model: Model, data: Dataset | None, allow_pickle: bool, seed: int, own: Mapping[str, Metric] = _NO_METRICS
) -> Figures:
    """Measure one model on one thread, also by metrics of its package. Without data, times are of made-up rows."""
    why = why_not_run(model)
    if why:
        answers = _ask_by_layers(model, data, own) if data and _runs_by_layers(model) else _no_answers(own, why)
        return Figures(model.size_bytes(), None, None, answers)
    with one_thread():
        predictor = predictor_of(model, allow_pickle)
        rows = rows_to_time(data, model.package, seed)
        return Figures(
            size_bytes=model.size_bytes(),
            latency_p95_ms=row_p95(predictor, rows),
            latency_batch_p95_ms=batch_p95(predictor, rows),
            answers=_ask(predictor, data, model, own) if data else _no_answers(own, _NO_DATA),
        )


def compare(source: Figures, result: Figures) -> tuple[MeasuredMetric, ...]:
    """Return the metrics of a result beside those of its source: what a gate sets limits on."""
    latency = {"value": rounded(result.latency_p95_ms), "source": rounded(source.latency_p95_ms)}
    return (
        *compare_answers(source.answers, result.answers),
        MeasuredMetric(name=METRIC_LATENCY_P95, **latency),
        MeasuredMetric(name=METRIC_SIZE, value=result.size_bytes, source=source.size_bytes),
    )


def explain(source: Figures, result: Figures) -> Details:
    """Return what report.json says of the metrics beyond their figures."""
    return details_of(source.answers, result.answers)


def figures_of(source: Figures, result: Figures) -> dict[str, float]:
    """Return all that is known of one result, by name."""
    compared = {item.name: item.value for item in compare(source, result) if item.value is not None}
    batch = rounded(result.latency_batch_p95_ms)
    return compared if batch is None else {**compared, METRIC_LATENCY_BATCH_P95: batch}


def _no_answers(own: Mapping[str, Metric], why: str) -> Answers:
    names = (METRIC_ACCURACY, METRIC_AGREEMENT, *own)
    scores = dict.fromkeys((METRIC_ACCURACY, *own))
    return Answers(scores, (METRIC_AGREEMENT,), notes=dict.fromkeys(names, why))


def _ask(predictor: Predictor, data: Dataset, model: Model, own: Mapping[str, Metric]) -> Answers:
    """Let a model answer all rows."""
    size = _batch_size(predictor, data)
    return _judge(map(predictor.predict, data.batches(size)), size, data, model, own)


def _runs_by_layers(model: Model) -> bool:
    return model.package.format is ModelFormat.ONNX and not model.waiting and not lacks_memory_by_layers(model)


def _ask_by_layers(model: Model, data: Dataset, own: Mapping[str, Metric]) -> Answers:
    """Let a graph that cannot be loaded answer all rows."""
    outputs = [tensor.name for tensor in model.package.outputs]
    with tempfile.TemporaryDirectory() as scratch:
        answers = answers_of(model.weights, outputs, data.batches(_BATCH_BY_LAYERS), Path(scratch))
        return _judge(answers, _BATCH_BY_LAYERS, data, model, own)


def _judge(
    answers: Iterable[list[NDArray[Any]]], size: int, data: Dataset, model: Model, own: Mapping[str, Metric]
) -> Answers:
    """Return what the answers are worth, to rows of which `size` were asked at a time."""
    meters = [*_meters(data, model), *([OwnMetrics(own, model.package)] if own else [])]
    for outputs, labels in zip(answers, data.labels_of(size), strict=True):
        for meter in meters:
            meter.add(outputs, labels)
    return reduce(Answers.joined, (meter.read() for meter in meters), Answers())


def _meters(data: Dataset, model: Model) -> Iterator[Meter]:
    """Yield what data and model allow to measure."""
    task = task_of(data.labels, model.package)
    if task is Task.VALUES:
        yield Errors()
    elif task is Task.TOKENS:
        yield Likelihood()
    elif task is Task.CLASSES or data.labels is None:
        yield Classes()
    if data.labels is None:
        yield Vectors()


def _batch_size(predictor: Predictor, data: Dataset) -> int:
    answers = predictor.predict(next(data.batches(1)))
    return max(1, min(_BATCH, _LARGEST_ANSWER // max(1, sum(output.nbytes for output in answers))))
