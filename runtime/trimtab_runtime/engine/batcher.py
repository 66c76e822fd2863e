"""Batch when the session is free: a lone caller never waits, and what arrives during a run is the next batch.

There are two ways to run. A model that answers within a fraction of a millisecond runs inside the event loop, once for
all requests that the loop read in one turn: a thread would cost more than the run. Any other has a thread of its own,
which takes the next batch itself, so that the session is never idle while the loop reads and writes. Between the two
are models of which a row that finds nobody is answered in the loop, and batches have the thread.
"""

import asyncio
import math
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from trimtab_runtime.engine.costs import Costs, Forecast
from trimtab_runtime.engine.pieces import Pieces, is_long
from trimtab_runtime.engine.queueing import Done, Feeds, Outputs, Queue, Shape, Waiting
from trimtab_runtime.engine.running import Computed, Run, compute
from trimtab_runtime.engine.turns import Turns
from trimtab_runtime.logs import complain
from trimtab_runtime.protocol.errors import Busy, Late
from trimtab_runtime.protocol.request import Spent

_LEAST_BATCHES = 8  # may always wait, however long they take: with fewer, refusals would leave the session idle


@dataclass(frozen=True, slots=True)
class Limits:
    """How many rows run together, how long the first of them may wait for more, and how much may wait in all."""

    batch_rows: int
    delay_seconds: float = 0.0
    wait_seconds: float = 1.0
    queued_rows: int = 65536
    queued_bytes: int = 256 << 20


class Batcher:
    """Feeds one session from one event loop. Runs happen in the loop where `in_loop`, else in a thread of its own.

    With `lone_in_loop` a request of one row that finds nothing before it runs in the loop all the same.

    `observe_run` is told the rows and seconds of every run. With `one_shape` all rows are known to be alike. Where a
    row is answered alike in any company, requests of very many rows may run in pieces of `piece_rows`. Those who run in
    the same loop have their `turns`.
    """

    def __init__(
        self,
        run: Run,
        limits: Limits,
        costs: Costs,
        observe_run: Callable[[int, float], None] = lambda rows, seconds: None,
        in_loop: bool = False,
        one_shape: bool = False,
        piece_rows: int | None = None,
        turns: Turns | None = None,
        lone_in_loop: bool = False,
    ) -> None:
        self._run = run
        self._limits = limits
        self._forecast = Forecast(costs, limits.batch_rows)
        self._few = _LEAST_BATCHES * limits.batch_rows
        self._observe_run = observe_run
        self._in_loop = in_loop
        self._one_shape = one_shape
        self._piece_rows = sys.maxsize if piece_rows is None else piece_rows
        self._lone_in_loop = lone_in_loop and not in_loop
        self._turns = turns or Turns()
        self._turns.join(self)
        self._rows = self._bytes = 0  # of all that has no result yet
        self._staged: list[Waiting] = []
        self._timer: asyncio.TimerHandle | None = None
        self._queue = Queue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_due = False
        self._wake = threading.Event()

    async def infer(self, feeds: Feeds, timeout: float | None = None, spent: Spent | None = None) -> Outputs:
        """Return the outputs for these rows. Raises what `submit` raises, Late and InferenceFailed."""
        answer: asyncio.Future[Outputs] = asyncio.get_running_loop().create_future()

        def settle(result: Outputs | Exception) -> None:
            if not answer.done():
                _settle(answer, result)

        waiting = self.submit(feeds, settle, timeout, spent)
        try:
            return await answer
        except asyncio.CancelledError:
            waiting.left = True
            raise

    def submit(self, feeds: Feeds, done: Done, timeout: float | None = None, spent: Spent | None = None) -> Waiting:
        """Queue rows; `done` is called in the loop, later. After `timeout` seconds they need not be computed any more.

        Where there is a `spent`, it is told what became of the time.
        Raises Busy when too much waits for an answer in time.
        """
        now = monotonic()  # the loop's own clock stands still within a turn, and while the loop waits
        rows, size = len(next(iter(feeds.values()))), sum([array.nbytes for array in feeds.values()])
        shape = () if self._one_shape else _shape(feeds)
        waiting = Waiting(feeds, rows, size, shape, now, None if timeout is None else now + timeout, done, spent)
        self._admit(waiting)
        if spent is not None:
            spent.begin()
        if is_long(waiting, self._piece_rows):
            self._bytes += waiting.size
            Pieces(waiting, self._piece_rows, self._add, self._forget).begin()
        else:
            self._add(waiting)
        return waiting

    def _add(self, waiting: Waiting) -> None:
        loop = self._loop or self._begin()
        self._rows += waiting.rows
        self._bytes += waiting.size
        if self._limits.delay_seconds:
            self._stage(waiting, loop)
        else:
            self._queue.add(waiting)
            if self._lone_in_loop and self._is_alone(waiting):
                loop.call_soon(self._turn_of_one, waiting)
            else:
                self._start(loop)

    def _is_alone(self, waiting: Waiting) -> bool:
        """Tell whether nothing else waits or runs, of this model or another."""
        return waiting.rows == 1 == self._rows and self._turns.is_only(self)

    def _forget(self, whole: Waiting) -> None:
        self._bytes -= whole.size

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing waits or runs, and nothing is held for it."""
        return self._rows == 0 and self._bytes == 0

    @property
    def is_crowded(self) -> bool:
        """Tell whether more waits than the run in hand and the next batch can take."""
        return self._rows > 2 * self._limits.batch_rows

    def check_room(self, timeout: float | None = None) -> None:
        """Raise Busy where not even one row more may wait, or not as long as its caller does, in seconds.

        To be asked before a request is read, which takes longer.
        """
        if self._rows > self._few or (timeout is not None and not self.is_idle):
            self._check(self._rows + 1, self._bytes, math.inf if timeout is None else timeout)

    def turn_seconds(self) -> float:
        """Return how long the next turn in the loop will take; 0 where none is due, or runs have a thread."""
        if not self._rows or not self._in_loop:
            return 0.0
        return self._forecast.of_run(min(self._rows, self._limits.batch_rows))

    def _begin(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.get_running_loop()
        if not self._in_loop:
            threading.Thread(target=self._work, args=(self._loop,), name="session", daemon=True).start()
        return self._loop

    def _admit(self, waiting: Waiting) -> None:
        """Refuse what would wait too long. What finds nothing before it is always taken."""
        if self.is_idle:
            return
        left = math.inf if waiting.deadline is None else waiting.deadline - waiting.since
        self._check(self._rows + waiting.rows, self._bytes + waiting.size, left)

    def _check(self, rows: int, size: int, left: float = math.inf) -> None:
        """Raise Busy where so much in all is too much, or takes longer than the last of it can wait (`left`)."""
        limits, seconds = self._limits, self._forecast.of_queue(rows)
        if self._in_loop:
            seconds += -(-rows // limits.batch_rows) * self._turns.of_others(self)
        if seconds > left or (rows > self._few and seconds > limits.wait_seconds):
            raise Busy(f"{self._rows} rows wait already, which take {seconds:.1f} s; try again later", seconds)
        if rows > limits.queued_rows or size > limits.queued_bytes:
            raise Busy(f"{self._rows} rows ({self._bytes} bytes) wait already; try again later", seconds)

    def _stage(self, waiting: Waiting, loop: asyncio.AbstractEventLoop) -> None:
        """Hold requests back until they fill a batch, or the first of them has waited for as long as it may.

        Of the time that a caller waits, half at most goes for others.
        """
        self._staged.append(waiting)
        if sum(item.rows for item in self._staged) >= self._limits.batch_rows:
            self._release(loop)
            return
        at = waiting.since + self._limits.delay_seconds
        if waiting.deadline is not None:
            at = min(at, (waiting.since + waiting.deadline) / 2)
        if self._timer is None or at < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_at(at, self._release, loop)

    def _release(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for waiting in self._staged:
            self._queue.add(waiting)
        self._staged.clear()
        self._start(loop)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._in_loop:
            self._wake.set()
        elif not self._is_due:
            self._is_due = True
            loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run one batch inside the loop; what is left has its turn after the loop has read and written."""
        self._is_due = False
        if batch := self._take():
            self._settle(self._compute(batch))
        if self._queue:
            self._start(loop)

    def _turn_of_one(self, waiting: Waiting) -> None:
        """Run what was alone when it came, unless others have come with it."""
        if not self._is_alone(waiting):
            self._wake.set()
        elif batch := self._take():
            self._settle(self._compute(batch))

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run batch after batch, in the thread, which ends with the process."""
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._queue:
                if batch := self._take(loop.call_soon_threadsafe):
                    loop.call_soon_threadsafe(self._settle, self._compute(batch))

    def _take(self, call: Callable[..., object] = lambda act, *given: act(*given)) -> list[Waiting]:
        """Remove the next batch from the queue, without those whose callers left or whose time is over by its end.

        The end is a forecast: where nobody else waits for the model, who has time left at all is not given up for it.
        """
        taken, now = self._queue.take(self._limits.batch_rows), monotonic()
        wanted = [item for item in taken if not item.left and not item.is_late(now)]
        end = now + self._forecast.of_run(sum(item.rows for item in wanted))
        batch = [item for item in wanted if not item.is_late(end)]
        if not batch and not self._queue:
            batch = wanted
        if len(batch) < len(taken):
            call(self._drop, [item for item in taken if item not in batch])
        return batch

    def _compute(self, batch: list[Waiting]) -> Computed:
        others_wait = bool(self._queue)
        computed = compute(self._run, batch)
        computed.left_others = others_wait
        return computed

    def _drop(self, items: list[Waiting]) -> None:
        for item in items:
            self._finish(item, Late("the request's time is over before the model can have answered it"))

    def _settle(self, computed: Computed) -> None:
        for ran in computed.runs:
            if not ran.failed:
                self._forecast.learn(ran.rows, ran.seconds, computed.left_others)
            self._observe_run(ran.rows, ran.seconds)
        for item, result in zip(computed.batch, computed.results, strict=True):
            if item.spent is not None:
                item.spent.end(sum(ran.seconds for ran in computed.runs), sum(part.rows for part in computed.batch))
            self._finish(item, result)

    def _finish(self, item: Waiting, result: Outputs | Exception) -> None:
        self._rows -= item.rows
        self._bytes -= item.size
        if item.left:
            return
        try:
            item.done(result)
        except Exception as error:  # of one caller: the others of its batch get their answers all the same
            complain("an answer could not be given", error)


def _shape(feeds: Feeds) -> Shape:
    return tuple((name, feeds[name].shape[1:]) for name in sorted(feeds))


def _settle(answer: asyncio.Future[Outputs], result: Outputs | Exception) -> None:
    if isinstance(result, Exception):
        answer.set_exception(result)
    else:
        answer.set_result(result)
