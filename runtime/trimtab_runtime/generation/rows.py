"""What the rows of a decoder hold, and where a new answer begins: behind what an answer before it has left there."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

_WORTH: Final = 16  # tokens that a conversation may lose rather than being copied


class Beginning(NamedTuple):
    """A free row for a new answer, and the row that holds the first tokens of its prompt already."""

    row: int
    source: int
    tokens: int


class Rows:
    """Tokens by row, and which rows were used last. Those of answers that are being given come first."""

    def __init__(self) -> None:
        self._held: list[list[int]] = []
        self._used: list[int] = []
        self._time = 0

    def fit(self, lengths: Sequence[int]) -> None:
        """Follow a decoder that has these rows now: more or fewer of them, and some that hold less than before."""
        kept = self._held[: len(lengths)]
        self._held = kept + [[] for _ in range(len(lengths) - len(kept))]
        self._used = self._used[: len(lengths)] + [0] * (len(lengths) - len(kept))
        for held, length in zip(self._held, lengths, strict=True):
            del held[length:]

    def begin(self, prompt: Sequence[int], running: int) -> Beginning:
        """Choose a row beyond those that run.

        The row that holds most of the prompt is used as it is where it loses next to nothing, or is the only one; else
        it is copied into the row that was not used for longest. The last token of a prompt is read in any case: what
        comes after it is what was asked for.
        """
        alike = [min(_common(held, prompt), len(prompt) - 1) for held in self._held]
        source = max(range(len(alike)), key=lambda row: (alike[row], -len(self._held[row])))
        others = [row for row in range(running, len(alike)) if row != source]
        is_free = source >= running
        if is_free and (not others or len(self._held[source]) - alike[source] <= _WORTH):
            return Beginning(source, source, alike[source])
        row = min(others, key=lambda at: (bool(self._held[at]), self._used[at]))
        return Beginning(row, source, alike[source])

    def keep(self, row: int, prompt: Sequence[int]) -> None:
        """Say that a row holds the beginning of a prompt, and nothing else."""
        self._held[row] = list(prompt)
        self._touch(row)

    def add(self, row: int, tokens: Sequence[int]) -> None:
        """Say that a row holds more tokens."""
        self._held[row].extend(tokens)
        self._touch(row)

    def length(self, row: int) -> int:
        """Return how many tokens a row holds."""
        return len(self._held[row])

    def swap(self, one: int, other: int) -> None:
        """Exchange two rows."""
        self._held[one], self._held[other] = self._held[other], self._held[one]
        self._used[one], self._used[other] = self._used[other], self._used[one]

    def clear(self) -> None:
        """Say that no row holds anything."""
        self._held = [[] for _ in self._held]

    def _touch(self, row: int) -> None:
        self._time += 1
        self._used[row] = self._time


def _common(held: Sequence[int], prompt: Sequence[int]) -> int:
    """Return how many tokens two sequences have in common at their beginning."""
    length = min(len(held), len(prompt))
    differs = np.flatnonzero(np.asarray(held[:length]) != np.asarray(prompt[:length]))
    return int(differs[0]) if len(differs) else length
