"""What a model is like to run, learned before anybody may ask: the time of each batch size, and whether rows mix.

Rows do not mix in every model: one that normalizes over the batch, or that quantizes activations by the largest value
of all rows (ONNX Runtime's dynamic int8), answers a row differently in other company. Such a model runs request by
request, unless the difference is below a tolerance.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Final

import numpy as np

from trimtab_runtime.engine.costs import Costs
from trimtab_runtime.engine.queueing import Feeds
from trimtab_runtime.engine.running import Run
from trimtab_runtime.logs import say
from trimtab_runtime.protocol.tensors import Array

_IN_LOOP_SECONDS: Final = 0.0003  # a run that is longer keeps the event loop from its callers
_ROW_IN_LOOP_SECONDS: Final = 0.0001  # of a row that costs more, the run and the work of the loop are worth overlapping
_REPEATS: Final = 5
_MOST_SECONDS: Final = 0.5  # for all sizes together, as nobody is served meanwhile
_LONGEST_SECONDS: Final = 5.0  # for a slow model, while each size is much better than the one before
_MUCH: Final = 1.3
_COMPARED_ROWS: Final = 3
_SCALES: Final = (1.0, 0.1, 8.0)  # of the rows that are compared: company of another size shows most

MakeRows = Callable[[int], Feeds]


@dataclass(frozen=True, slots=True)
class Learned:
    """How to run a model: `difference` is that of a row in company, as a part of the largest output.

    `is_safe` tells whether that is within the tolerance. Batches run `in_loop` where that is quicker than in a thread;
    elsewhere `lone_in_loop` tells it of a row that finds nobody else.
    """

    costs: Costs
    batch_rows: int
    in_loop: bool
    lone_in_loop: bool
    difference: float
    is_safe: bool


def learn(run: Run, make_rows: MakeRows, most_rows: int, tolerance: float, has_spare_cpu: bool = True) -> Learned:
    """Try a model with rows of its own making. Its first runs are over: what they pay for is not measured.

    A thread pays only where the loop `has_spare_cpu` beside its own.
    """
    difference = _difference(run, make_rows(_COMPARED_ROWS)) if most_rows > 1 else 0.0
    is_safe = difference <= tolerance
    costs = _costs(run, make_rows, most_rows if is_safe else 1)
    rows = costs.useful_rows()
    in_loop, lone_in_loop = is_for_the_loop(costs, rows, has_spare_cpu), costs.of(1) <= _IN_LOOP_SECONDS
    return Learned(costs, rows, in_loop, lone_in_loop, difference, is_safe)


def is_for_the_loop(costs: Costs, rows: int, has_spare_cpu: bool) -> bool:
    """Tell whether batches of so many rows are answered quicker inside the loop than in a thread."""
    seconds = costs.of(rows)
    return seconds <= _IN_LOOP_SECONDS and (seconds / rows <= _ROW_IN_LOOP_SECONDS or not has_spare_cpu)


def _costs(run: Run, make_rows: MakeRows, most_rows: int) -> Costs:
    started = perf_counter()
    rows: list[int] = []
    seconds: list[float] = []
    for size in _sizes(most_rows):
        try:
            seconds.append(_fastest(run, make_rows(size)))
        except (
            Exception
        ) as error:  # neither runtime has a common base; larger sizes are not for this model, or these rows
            if not rows:
                raise
            say("no more rows tried", rows=size, cause=str(error))
            break
        rows.append(size)
        spent = perf_counter() - started
        if spent > _LONGEST_SECONDS or (spent > _MOST_SECONDS and not _still_pays(rows, seconds)):
            break
    return Costs(tuple(rows), tuple(seconds))


def _still_pays(rows: list[int], seconds: list[float]) -> bool:
    """Tell whether the last size was much better for its rows than the one before: then a larger one may be, too."""
    if len(rows) < 2:
        return True
    before, last = (own / taken for own, taken in zip(rows[-2:], seconds[-2:], strict=True))
    return last > _MUCH * before


def _sizes(most_rows: int) -> Iterator[int]:
    """Yield 1, 2, 4 and so on, and the most."""
    size = 1
    while size < most_rows:
        yield size
        size *= 2
    yield most_rows


def _fastest(run: Run, feeds: Feeds) -> float:
    run(feeds)  # the first run of a size makes room for it
    best = float("inf")
    for _ in range(_REPEATS):
        started = perf_counter()
        run(feeds)
        best = min(best, perf_counter() - started)
        if best > _MOST_SECONDS / _REPEATS:
            break
    return best


def _difference(run: Run, feeds: Feeds) -> float:
    """Return by how much rows differ that are run together and alone, as a part of the largest output; inf at worst.

    It is inf too where nothing can be said: rows that are all alike show nothing, nor do rows that cannot be run.
    """
    if all(_is_alike(array) for array in feeds.values()):
        return float("inf")
    for made in ({name: _scaled(array) for name, array in feeds.items()}, feeds):
        try:
            return _compared(run, made)
        except Exception as error:  # scaled values may be beyond what the model takes
            say("rows could not be compared", cause=str(error))
    return float("inf")


def _compared(run: Run, feeds: Feeds) -> float:
    together = run(feeds)
    worst = 0.0
    for at in range(_COMPARED_ROWS):
        alone = run({name: array[at : at + 1] for name, array in feeds.items()})
        worst = max([worst, *(_apart(together[name][at : at + 1], alone[name]) for name in alone)])
    return worst


def _is_alike(array: Array) -> bool:
    return all(np.array_equal(array[0], row) for row in array[1:])


def _scaled(array: Array) -> Array:
    if array.dtype.kind != "f":
        return array
    scales = np.asarray(_SCALES, array.dtype).reshape(-1, *[1] * (array.ndim - 1))
    scaled: Array = array * scales
    return scaled


def _apart(left: Array, right: Array) -> float:
    if left.shape != right.shape:
        return float("inf")
    if left.dtype.kind != "f":
        return 0.0 if np.array_equal(left, right) else float("inf")
    if not np.array_equal(np.isfinite(left), np.isfinite(right)):
        return float("inf")
    finite = np.isfinite(right)
    largest = float(np.abs(right, where=finite, out=np.zeros(right.shape, right.dtype)).max(initial=0.0))
    gap = float(np.abs(np.where(finite, left, 0) - np.where(finite, right, 0)).max(initial=0.0))
    return gap / largest if largest else gap
