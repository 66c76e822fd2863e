"""Times of a model in process CPU milliseconds: not the clock, so that a busy node does not decide over a gate."""

import time
from typing import Final, NamedTuple

import numpy as np

from trimtab_api.package import ModelPackage
from trimtab_optimizer.data import Dataset
from trimtab_optimizer.package import Model
from trimtab_optimizer.predict import Predictor, one_thread, predictor_of
from trimtab_optimizer.tensors import Arrays, example_inputs

SERVING_BATCH: Final = 32  # what a server runs at most at once, if its spec does not say otherwise
_WARM_UP: Final = 5
_ROWS: Final = 64  # made up where there is no data


class _Calls(NamedTuple):
    """A slow model is not called more often than `fewest` once it took `enough_ms`; a tenth of that warms it up."""

    most: int
    fewest: int
    enough_ms: float


_SINGLE: Final = _Calls(200, 50, 10_000)
_BATCHED: Final = _Calls(50, 3, 5_000)
_TURNS: Final = 5
_SETTLING: Final = 3  # calls of a turn


def row_p95(predictor: Predictor, rows: Arrays) -> float:
    """Return the 95th percentile of calls with one row."""
    return _p95(predictor, rows, 1, _SINGLE)


def batch_p95(predictor: Predictor, rows: Arrays) -> float:
    """Return the 95th percentile of calls with a batch as servers run it; few rows are repeated."""
    return _p95(predictor, rows, SERVING_BATCH, _BATCHED)


def latency_ratio(before: Model, after: Model, data: Dataset | None, allow_pickle: bool, seed: int) -> float:
    """Return how long a row takes `after`, in parts of `before`: medians of calls in turns, so that noise hits both.

    A turn has several calls, of which the first are not counted: a server runs one model, whose weights are in the
    cache as far as they fit, and after one call of the other model they would not be.
    """
    with one_thread():
        predictors = [predictor_of(model, allow_pickle) for model in (before, after)]
        rows = rows_to_time(data, before.package, seed)
        spent: tuple[list[float], list[float]] = ([], [])
        for turn in range(_TURNS):
            for predictor, times in zip(predictors, spent, strict=True):
                calls = range(turn * _SINGLE.fewest, turn * _SINGLE.fewest + _SETTLING + _SINGLE.fewest // _TURNS)
                times += [_cpu_ms(predictor, _piece(rows, 1, number)) for number in calls][_SETTLING:]
    first, second = (float(np.median(times)) for times in spent)
    return second / first


def rows_to_time(data: Dataset | None, package: ModelPackage, seed: int) -> Arrays:
    """Return rows of the data; without data, made-up ones."""
    return data.inputs if data else example_inputs(package.inputs, _ROWS, seed)


def _p95(predictor: Predictor, rows: Arrays, size: int, calls: _Calls) -> float:
    warming = 0.0
    for n in range(_WARM_UP):
        warming += _cpu_ms(predictor, _piece(rows, size, n))
        if warming > calls.enough_ms / 10:
            break
    spent: list[float] = []
    while len(spent) < calls.fewest or (len(spent) < calls.most and sum(spent) < calls.enough_ms):
        spent.append(_cpu_ms(predictor, _piece(rows, size, len(spent))))
    return float(np.percentile(spent, 95))


def _piece(rows: Arrays, size: int, number: int) -> Arrays:
    """Return the next rows at each call; after the last one the first follows."""
    count = len(next(iter(rows.values())))
    taken = np.arange(number * size, (number + 1) * size) % count
    return {name: values[taken] for name, values in rows.items()}


def _cpu_ms(predictor: Predictor, piece: Arrays) -> float:
    start = time.process_time_ns()
    predictor.predict(piece)
    return (time.process_time_ns() - start) / 1e6
