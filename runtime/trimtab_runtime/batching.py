"""Batch when the session is free: a lone caller never waits, and what arrives during a run is the next batch.

Rows travel together only if their shapes and types agree. A batch that fails is tried again request by request, so that
a poisonous one fails its own caller only.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from trimtab_runtime.protocol.errors import Busy, InferenceFailed
from trimtab_runtime.protocol.tensors import Array

Feeds = Mapping[str, Array]
Outputs = Mapping[str, Array]
Run = Callable[[Feeds], Outputs]

_QUEUED_BATCHES = 16


@dataclass(eq=False, slots=True)
class _Waiting:
    feeds: Feeds
    rows: int
    answer: asyncio.Future[Outputs] = field(repr=False)

    @property
    def shape(self) -> tuple[object, ...]:
        return tuple((name, array.shape[1:], array.dtype) for name, array in sorted(self.feeds.items()))


class Batcher:
    """Feeds one session from one event loop. `observe_batch` is told the rows of every run."""

    def __init__(self, run: Run, max_rows: int, max_delay_seconds: float, observe_batch: Callable[[int], None]) -> None:
        self._run = run
        self._max_rows = max(1, max_rows)
        self._delay = max_delay_seconds
        self._observe_batch = observe_batch
        self._queue: deque[_Waiting] = deque()
        self._rows = 0
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="session")

    async def infer(self, feeds: Feeds) -> Outputs:
        """Return the outputs for these rows. Raises Busy when too much waits, InferenceFailed when they fail."""
        rows = len(next(iter(feeds.values())))
        if self._queue and self._rows + rows > self._max_rows * _QUEUED_BATCHES:
            raise Busy(f"{self._rows} rows wait already; try again in a second")
        waiting = _Waiting(feeds, rows, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._rows += rows
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain_queue())
        return await waiting.answer

    async def _drain_queue(self) -> None:
        if self._delay:
            await asyncio.sleep(self._delay)
        while self._queue:
            batch = self._take()
            if batch:
                self._observe_batch(sum(item.rows for item in batch))
                await self._answer(batch)

    def _take(self) -> list[_Waiting]:
        """Take like rows from the head of the queue, up to the largest batch. Callers that left are skipped."""
        batch: list[_Waiting] = []
        rows = 0
        while self._queue:
            head = self._queue[0]
            if batch and (rows + head.rows > self._max_rows or head.shape != batch[0].shape):
                break
            self._queue.popleft()
            self._rows -= head.rows
            if not head.answer.done():
                batch.append(head)
                rows += head.rows
        return batch

    async def _answer(self, batch: list[_Waiting]) -> None:
        try:
            outputs = await self._compute(_joined(batch))
            answers = _split(outputs, batch)
        except Exception as error:
            await self._answer_one_by_one(batch, error)
            return
        for item, answer in zip(batch, answers, strict=True):
            _resolve(item, answer)

    async def _answer_one_by_one(self, batch: list[_Waiting], error: Exception) -> None:
        if len(batch) == 1:
            _fail(batch[0], error)
            return
        for item in batch:
            await self._answer([item])

    async def _compute(self, feeds: Feeds) -> Outputs:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, feeds)


def _joined(batch: list[_Waiting]) -> Feeds:
    if len(batch) == 1:
        return batch[0].feeds
    return {name: np.concatenate([item.feeds[name] for item in batch]) for name in batch[0].feeds}


def _split(outputs: Outputs, batch: list[_Waiting]) -> list[Outputs]:
    total = sum(item.rows for item in batch)
    if len(batch) > 1 and any(len(array) != total for array in outputs.values()):
        raise ValueError("an output does not have one row for each row of the batch")
    answers, start = [], 0
    for item in batch:
        end = start + item.rows
        answers.append(outputs if len(batch) == 1 else {name: array[start:end] for name, array in outputs.items()})
        start = end
    return answers


def _resolve(item: _Waiting, answer: Outputs) -> None:
    if not item.answer.done():
        item.answer.set_result(answer)


def _fail(item: _Waiting, error: Exception) -> None:
    if not item.answer.done():
        failed = InferenceFailed("the model could not compute this request")
        failed.__cause__ = error
        item.answer.set_exception(failed)
