"""One run of the session for a batch: rows are joined, computed, and handed back to whom they belong.

A batch that fails is tried again request by request, so that a poisonous one fails its own caller only.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import NamedTuple

import numpy as np

from trimtab_runtime.engine.queueing import Feeds, Outputs, Waiting
from trimtab_runtime.protocol.errors import InferenceFailed

Run = Callable[[Feeds], Outputs]


class Ran(NamedTuple):
    """A run of the session."""

    rows: int
    seconds: float
    failed: bool


@dataclass(slots=True)
class Computed:
    """A batch with the result of each request, and the runs that this took. `left_others` waiting."""

    batch: list[Waiting]
    results: list[Outputs | Exception] = field(default_factory=list)
    runs: list[Ran] = field(default_factory=list)
    left_others: bool = False


def compute(run: Run, batch: list[Waiting]) -> Computed:
    """Run a batch. Nothing is raised: a request that fails has the error as its result."""
    computed = Computed(batch)
    try:
        computed.results = _together(run, batch, computed)
    except Exception as error:  # neither runtime has a common base for what it raises
        if len(batch) == 1:
            computed.results = [_failure(error)]
        else:
            computed.results = [_alone(run, item, computed) for item in batch]
    return computed


def _together(run: Run, batch: list[Waiting], computed: Computed) -> list[Outputs | Exception]:
    started, rows, failed = perf_counter(), sum(item.rows for item in batch), True
    try:
        outputs = run(_joined(batch))
        failed = False
    finally:
        computed.runs.append(Ran(rows, perf_counter() - started, failed))
    return _split(outputs, batch)


def _alone(run: Run, item: Waiting, computed: Computed) -> Outputs | Exception:
    try:
        return _together(run, [item], computed)[0]
    except Exception as error:
        return _failure(error)


def _joined(batch: list[Waiting]) -> Feeds:
    if len(batch) == 1:
        return batch[0].feeds
    return {name: np.concatenate([item.feeds[name] for item in batch]) for name in batch[0].feeds}


def _split(outputs: Outputs, batch: list[Waiting]) -> list[Outputs | Exception]:
    if len(batch) == 1:
        return [outputs]
    total = sum(item.rows for item in batch)
    if any(len(array) != total for array in outputs.values()):
        raise ValueError("an output does not have one row for each row of the batch")
    answers: list[Outputs | Exception] = []
    start = 0
    for item in batch:
        end = start + item.rows
        answers.append({name: array[start:end] for name, array in outputs.items()})
        start = end
    return answers


def _failure(error: Exception) -> InferenceFailed:
    failed = InferenceFailed("the model could not compute this request; the server's log has the cause")
    failed.__cause__ = error
    return failed
