"""Many answers at once: between two tokens of all that are being given, others may join and leave.

Each turn reads at most so many tokens of prompts, and then runs one token of every answer: a long prompt slows the
others down, but never stops them (chunked prefill: Agrawal et al., 2023). What rows hold when an answer is over stays
there until another needs the place: a conversation that goes on is not read again from its beginning, nor is what all
prompts begin with.
"""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Final, Protocol

from trimtab_runtime.generation.answering import Answering, Asked, Deliver, Piece
from trimtab_runtime.generation.decoder import Decoder
from trimtab_runtime.generation.rows import Rows
from trimtab_runtime.generation.words import Words
from trimtab_runtime.logs import complain
from trimtab_runtime.protocol.errors import BadRequest, Busy, InferenceFailed
from trimtab_runtime.protocol.tensors import Array

_READ: Final = 128  # tokens of prompts in a turn
_LEARNING: Final = 0.1  # weight of the latest answer in how long one takes

Told = list[tuple[Answering, Piece | Exception]]


class Watch(Protocol):
    """Who counts what happens."""

    def observe_run(self, rows: int, seconds: float) -> None:
        """Take one token of as many answers into account."""

    def observe_first(self, seconds: float, prompt: int, cached: int) -> None:
        """Take into account that an answer began, and how much of its prompt was there already."""

    def observe_tokens(self, count: int) -> None:
        """Take into account how many tokens an answer had."""

    def observe_work(self, running: int, waiting: int) -> None:
        """Take into account how many answers are being given, and how many wait."""


class Engine:
    """Runs in a thread of its own. `tell` is called there with all that is new after each turn."""

    def __init__(
        self,
        decoder: Decoder,
        words: Words,
        ends: frozenset[int],
        most_waiting: int,
        watch: Watch,
        tell: Callable[[Told], None],
    ) -> None:
        self._decoder = decoder
        self._words = words
        self._ends = ends
        self._most_waiting = most_waiting
        self._watch = watch
        self._tell = tell
        self._waiting: deque[Answering] = deque()
        self._running: list[Answering] = []  # in the first rows, in this order
        self._reading: Answering | None = None
        self._rows = Rows()
        self._answer_seconds = 1.0
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="generation", daemon=True)
        self._thread.start()

    def submit(self, asked: Asked, deliver: Deliver) -> Answering:
        """Have an answer made; `deliver` gets its pieces. Raises BadRequest where it is too long, and Busy."""
        if not asked.prompt:
            raise BadRequest("the prompt has no tokens; send some text")
        if asked.total > self._decoder.most_tokens:
            raise BadRequest(
                f"the prompt has {len(asked.prompt)} tokens and the answer may have {asked.most}; together at most "
                f"{self._decoder.most_tokens} are possible here"
            )
        answering = Answering(asked, self._ends, self._words.spelling(), deliver)
        with self._changed:
            if len(self._waiting) >= self._most_waiting:
                self._waiting = deque(item for item in self._waiting if not item.left)
            if len(self._waiting) >= self._most_waiting:
                raise Busy(f"{len(self._waiting)} prompts wait already; try again later", self._wait_seconds())
            self._waiting.append(answering)
            self._changed.notify()
        return answering

    @property
    def is_alive(self) -> bool:
        """Tell whether answers are still being made."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop computing."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _wait_seconds(self) -> float:
        return self._answer_seconds * len(self._waiting) / max(1, len(self._running))

    def _work(self) -> None:
        while self._next():
            told: Told = []
            try:
                self._turn(told)
            except Exception as error:  # onnxruntime has no common base for what it raises
                self._fail(error, told)
            if told:
                self._tell(told)
            self._watch.observe_work(len(self._running), len(self._waiting))

    def _next(self) -> bool:
        """Wait for something to do; tell whether there is any."""
        with self._changed:
            while not (self._waiting or self._running or self._reading or self._is_closed):
                self._changed.wait()
            return not self._is_closed

    def _turn(self, told: Told) -> None:
        for answering in [item for item in self._running if item.left]:
            self._end(answering)
        if self._reading is not None and self._reading.left:
            self._reading = None
        left = _READ
        while left > 0 and (reading := self._reading or self._admit()) is not None:
            left -= self._read(reading, left, told)
        if self._running:
            self._step(told)

    def _admit(self) -> Answering | None:
        """Let the first of those who wait begin, and return it, where there is room beside those that run."""
        with self._changed:
            while self._waiting and self._waiting[0].left:
                self._waiting.popleft()
            if not self._waiting:
                return None
            answering = self._waiting[0]
            rows = len(self._running) + 1
            tokens = max([answering.asked.total, *(item.asked.total for item in self._running)])
            if not self._decoder.has_room(rows, tokens):
                return None
            self._waiting.popleft()
            self._reading = answering  # from here on somebody has to tell its caller
        self._decoder.reserve(rows, tokens)
        self._rows.fit([self._decoder.length(row) for row in range(self._decoder.rows)])
        self._place(answering)
        return answering

    def _place(self, answering: Answering) -> None:
        """Give an answer a free row, with as much of its prompt as some row holds."""
        prompt = answering.asked.prompt
        row, source, tokens = self._rows.begin(prompt, len(self._running))
        is_there = row == source
        answering.cached = self._decoder.cut(row, tokens) if is_there else self._decoder.copy(source, row, tokens)
        answering.row = row
        self._rows.keep(row, prompt[: answering.cached])

    def _read(self, answering: Answering, most: int, told: Told) -> int:
        """Read at most so many tokens of a prompt, and return how many; after the last one the answer begins."""
        prompt, before = answering.asked.prompt, self._rows.length(answering.row)
        piece = prompt[before : before + most]
        logits = self._decoder.extend(answering.row, piece)
        self._rows.add(answering.row, piece)
        if before + len(piece) < len(prompt):
            return len(piece)
        self._reading = None
        self._swap(answering.row, len(self._running))
        answering.row = len(self._running)
        self._running.append(answering)
        self._watch.observe_first(monotonic() - answering.since, len(prompt), answering.cached)
        self._go_on(answering, logits, told)
        return len(piece)

    def _step(self, told: Told) -> None:
        """Run a token of every answer."""
        running = list(self._running)
        began = monotonic()
        tokens = [item.last for item in running]
        logits = self._decoder.step(tokens)
        for row, token in enumerate(tokens):
            self._rows.add(row, [token])
        self._watch.observe_run(len(running), monotonic() - began)
        for answering, row_logits in zip(running, logits, strict=True):
            self._go_on(answering, row_logits, told)

    def _go_on(self, answering: Answering, logits: Array, told: Told) -> None:
        piece = answering.go_on(logits)
        told.append((answering, piece))
        if piece.ended:
            self._answer_seconds += _LEARNING * (monotonic() - answering.since - self._answer_seconds)
            self._end(answering)

    def _end(self, answering: Answering) -> None:
        """Take an answer out: the last row takes its place, so that those that run stay together."""
        last = self._running[-1]
        self._swap(answering.row, last.row)
        self._running[answering.row] = last
        last.row = answering.row
        self._running.pop()
        self._watch.observe_tokens(answering.count)

    def _swap(self, one: int, other: int) -> None:
        if one != other:
            self._decoder.swap(one, other)
            self._rows.swap(one, other)

    def _fail(self, error: Exception, told: Told) -> None:
        """Have every answer that is being given fail, and begin anew with nothing held."""
        complain("generation failed", error)
        reading = [self._reading] if self._reading is not None else []
        over = {id(answering) for answering, piece in told if isinstance(piece, Piece) and piece.ended}
        failed = InferenceFailed("the model could not go on; the server's log has the cause")
        told += [(item, failed) for item in [*self._running, *reading] if id(item) not in over]
        self._running, self._reading = [], None
        for row in range(self._decoder.rows):
            with suppress(Exception):  # it may be what failed
                self._decoder.cut(row, 0)
        self._rows.clear()
