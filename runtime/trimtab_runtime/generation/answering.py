"""One answer in the making: what was asked, and what came of it so far."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

from trimtab_runtime.generation.sampling import Chosen, Sampler, Sampling
from trimtab_runtime.generation.words import Spelling, Stopping
from trimtab_runtime.protocol.tensors import Array

STOP = "stop"
LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt, and how to go on from it: at most `most` tokens, and no end before `least`."""

    prompt: tuple[int, ...]
    most: int
    least: int = 0
    stops: tuple[str, ...] = ()
    ignores_end: bool = False
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def total(self) -> int:
        """Return the tokens that prompt and answer may have together."""
        return len(self.prompt) + self.most


class Piece(NamedTuple):
    """What came next: text that can be read now, and the token that brought it, unless it is the one that ends.

    `ended` says why, where the answer is over.
    """

    text: str
    chosen: Chosen | None
    ended: str | None = None


Deliver = Callable[[Piece | Exception], None]


class Answering:
    """An answer in the making. A caller that does not want it any more sets `left`."""

    def __init__(self, asked: Asked, ends: frozenset[int], spelling: Spelling, deliver: Deliver) -> None:
        self.asked = asked
        self.deliver = deliver
        self.left = False
        self.since = monotonic()
        self.cached = 0  # tokens of the prompt that an answer before it had left behind
        self.count = 0
        self.row = 0
        self.last = 0
        self._ends = frozenset() if asked.ignores_end else ends
        self._sampler = Sampler(asked.sampling, asked.prompt)
        self._spelling = spelling
        self._stopping = Stopping(asked.stops)

    def go_on(self, logits: Array) -> Piece:
        """Choose the next token."""
        chosen = self._sampler.choose(logits, self._ends if self.count < self.asked.least else frozenset())
        self.last = chosen.token
        if chosen.token in self._ends:
            return Piece(self._last(), None, STOP)
        self.count += 1
        text, is_over = self._stopping.add(self._spelling.add(chosen.token))
        if is_over:
            return Piece(text, chosen, STOP)
        if self.count >= self.asked.most:
            return Piece(text + self._last(), chosen, LENGTH)
        return Piece(text, chosen)

    def _last(self) -> str:
        """Return what was held back, once no more comes."""
        text, is_over = self._stopping.add(self._spelling.rest())
        return text if is_over else text + self._stopping.rest()
