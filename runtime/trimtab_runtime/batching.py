"""Batch when the session is free: a lone caller never waits, and what arrives during a run is the next batch.

`run_together` is the policy, and pure; `Batcher` is the queue around it. Rows travel together only if their shapes and
types agree. A batch that fails is tried again request by request, so that a poisonous one fails its own caller only.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from trimtab_runtime.protocol.errors import Busy, InferenceFailed
from trimtab_runtime.protocol.tensors import Array

Feeds = Mapping[str, Array]
Outputs = Mapping[str, Array]
Run = Callable[[Feeds], Outputs]


@dataclass(frozen=True, slots=True)
class Limits:
    """How many rows run together, how long the first of them may wait for more, and how much may wait in all."""

    batch_rows: int
    delay_seconds: float = 0.0
    queued_rows: int = 4096
    queued_bytes: int = 256 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A request in the queue. Only requests with the same `shape` may run together."""

    feeds: Feeds
    rows: int
    size: int
    shape: tuple[object, ...]
    since: float
    answer: asyncio.Future[Outputs] = field(repr=False)


def run_together(queue: Iterable[Waiting], batch_rows: int) -> int:
    """Return how many requests from the head of the queue make the next batch; the first always runs."""
    count = rows = 0
    shape: tuple[object, ...] = ()
    for item in queue:
        if count and (item.shape != shape or rows + item.rows > batch_rows):
            break
        count, rows, shape = count + 1, rows + item.rows, item.shape
    return count


class Batcher:
    """Feeds one session from one event loop. `observe_batch` is told the rows of every run."""

    def __init__(self, run: Run, limits: Limits, observe_batch: Callable[[int], None]) -> None:
        self._run = run
        self._limits = limits
        self._observe_batch = observe_batch
        self._queue: deque[Waiting] = deque()
        self._rows = 0
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="session")

    async def infer(self, feeds: Feeds) -> Outputs:
        """Return the outputs for these rows. Raises Busy when too much waits, InferenceFailed when they fail."""
        waiting = _enqueued(feeds)
        self._admit(waiting)
        self._queue.append(waiting)
        self._rows += waiting.rows
        self._bytes += waiting.size
        self._arrived.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await waiting.answer

    def _admit(self, waiting: Waiting) -> None:
        rows, size = self._rows + waiting.rows, self._bytes + waiting.size
        if self._queue and (rows > self._limits.queued_rows or size > self._limits.queued_bytes):
            raise Busy(f"{self._rows} rows ({self._bytes} bytes) wait already; try again in a second")

    async def _work(self) -> None:
        while self._queue:
            if self._limits.delay_seconds:
                await self._wait_for_more()
            batch = self._take()
            if batch:
                await self._answer(batch)

    async def _wait_for_more(self) -> None:
        """Wait until a batch is full or its first request has waited for as long as it may."""
        clock = asyncio.get_running_loop().time
        deadline = self._queue[0].since + self._limits.delay_seconds
        while self._rows < self._limits.batch_rows and (left := deadline - clock()) > 0:
            self._arrived.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left)

    def _take(self) -> list[Waiting]:
        """Remove the next batch from the queue; callers that left are skipped."""
        count = run_together(self._queue, self._limits.batch_rows)
        taken = [self._queue.popleft() for _ in range(count)]
        self._rows -= sum(item.rows for item in taken)
        self._bytes -= sum(item.size for item in taken)
        return [item for item in taken if not item.answer.done()]

    async def _answer(self, batch: list[Waiting]) -> None:
        self._observe_batch(sum(item.rows for item in batch))
        try:
            answers = _split(await self._compute(_joined(batch)), batch)
        except Exception as error:  # onnxruntime has no common base for what it raises
            if len(batch) == 1:
                _fail(batch[0], error)
                return
            for item in batch:
                await self._answer([item])
            return
        for item, answer in zip(batch, answers, strict=True):
            if not item.answer.done():
                item.answer.set_result(answer)

    async def _compute(self, feeds: Feeds) -> Outputs:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, feeds)


def _enqueued(feeds: Feeds) -> Waiting:
    loop = asyncio.get_running_loop()
    return Waiting(
        feeds,
        rows=len(next(iter(feeds.values()))),
        size=sum(array.nbytes for array in feeds.values()),
        shape=tuple((name, feeds[name].shape[1:], feeds[name].dtype) for name in sorted(feeds)),
        since=loop.time(),
        answer=loop.create_future(),
    )


def _joined(batch: list[Waiting]) -> Feeds:
    if len(batch) == 1:
        return batch[0].feeds
    return {name: np.concatenate([item.feeds[name] for item in batch]) for name in batch[0].feeds}


def _split(outputs: Outputs, batch: list[Waiting]) -> list[Outputs]:
    if len(batch) == 1:
        return [outputs]
    total = sum(item.rows for item in batch)
    if any(len(array) != total for array in outputs.values()):
        raise ValueError("an output does not have one row for each row of the batch")
    answers: list[Outputs] = []
    start = 0
    for item in batch:
        end = start + item.rows
        answers.append({name: array[start:end] for name, array in outputs.items()})
        start = end
    return answers


def _fail(item: Waiting, error: Exception) -> None:
    if not item.answer.done():
        failed = InferenceFailed("the model could not compute this request; the server's log has the cause")
        failed.__cause__ = error
        item.answer.set_exception(failed)
