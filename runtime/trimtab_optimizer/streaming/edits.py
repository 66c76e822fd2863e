"""Other values in the place of weights: clipped, or zero where they count least.

Where the limit is, follows from the weight itself. It is found when the first value of the weight is asked for, so that
a chain of edits, and what is made of their result, goes through a model weight by weight, and reads it from the disk
once.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Generic, Literal, TypeVar

import numpy as np
from pydantic import Field

from trimtab_api.contract import Contract
from trimtab_optimizer.streaming.kernels import Floats
from trimtab_optimizer.streaming.magnitudes import ByChance, ByMagnitude, magnitude, ranked
from trimtab_optimizer.streaming.weights import Edit, Edits, Weight


@dataclass(frozen=True, slots=True)
class Clipped:
    """Values beyond a limit become the limit."""

    limit: float
    kind: Literal["clipped"] = "clipped"

    def apply(self, weight: Weight, rows: range, columns: range, values: Floats) -> Floats:
        """Return values between the limit and its negative."""
        limit = np.float32(self.limit)
        return np.clip(values, -limit, limit)


@dataclass(frozen=True, slots=True)
class Zeroed:
    """Values whose score is below a threshold become zero."""

    scoring: Annotated[ByMagnitude | ByChance, Field(discriminator="kind")]
    threshold: int
    kind: Literal["zeroed"] = "zeroed"

    def apply(self, weight: Weight, rows: range, columns: range, values: Floats) -> Floats:
        """Return values of which some are zero."""
        keep = self.scoring.score(weight, rows, columns, values) >= np.uint32(self.threshold)
        bits = -keep.astype(np.int32)  # all set, or none: as a mask, several times as fast as np.where
        bits &= values.view(np.int32)
        return bits.view(np.float32)


Found = Annotated[Clipped | Zeroed, Field(discriminator="kind")]


class StoredEdits(Contract):
    """Edits that were found, by weight, in the order in which they are made; and what is known of the model after them.

    That is its bytes, and of weights that were pruned, how many values are not zero.
    """

    size_bytes: int
    kept: dict[str, int]
    edits: dict[str, tuple[Found, ...]]


Remember = Callable[[str, Callable[[], int]], int]  # what was found under a name before, or what a function finds now
Find = Callable[[Weight], Found]
Choice = Callable[[Sequence[Weight], Remember], Find]  # the edit to make of each of some weights

_Value = TypeVar("_Value")


def find_anew(name: str, find: Callable[[], int]) -> int:
    """Remember nothing."""
    return find()


class Once(Generic[_Value]):
    """A value that is found when it is first needed, by whichever thread needs it."""

    def __init__(self, find: Callable[[], _Value]) -> None:
        self._find, self._lock = find, threading.Lock()
        self._found: _Value | None = None

    def value(self) -> _Value:
        """Return the value."""
        with self._lock:
            if self._found is None:
                self._found = self._find()
            return self._found


@dataclass(frozen=True, slots=True)
class Later:
    """An edit that is found when the first value is asked for."""

    once: Once[Found]

    def apply(self, weight: Weight, rows: range, columns: range, values: Floats) -> Floats:
        """Return what the edit makes of values."""
        return self.once.value().apply(weight, rows, columns, values)


def edited(weights: Sequence[Weight], choose: Choice, remember: Remember = find_anew) -> list[Weight]:
    """Return weights with one edit more. Nothing is read yet."""
    find = choose(weights, remember)
    return [replace(weight, edits=(*weight.edits, Later(Once(partial(find, weight))))) for weight in weights]


def found_of(edits: Edits) -> dict[str, tuple[Found, ...]]:
    """Return edits in a form that can be stored. Those that were not needed yet are found now."""
    return {name: tuple(map(_found, items)) for name, items in edits.items()}


def _found(edit: Edit) -> Found:
    known = edit.once.value() if isinstance(edit, Later) else edit
    assert isinstance(known, Clipped | Zeroed)
    return known


def clip_at(percentile: float) -> Choice:
    """Return the edit that clips each weight at a percentile of its own magnitudes."""

    def limit(weight: Weight) -> int:
        rank = min(round(weight.count * percentile / 100), weight.count - 1)
        return ranked([weight], by_magnitude, rank)

    def choose(weights: Sequence[Weight], remember: Remember) -> Find:
        return lambda weight: Clipped(magnitude(remember(f"of {weight.name}", lambda: limit(weight))))

    return choose


def zero_smallest(scoring: Callable[[Weight], ByMagnitude | ByChance], amount: float, together: bool) -> Choice:
    """Return the edit that zeroes a part of the values: of each weight, or of all of them together."""

    def threshold(group: Sequence[Weight]) -> int:
        total = sum(weight.count for weight in group)
        return ranked(group, scoring, min(round(total * amount), total - 1))

    def of_all(weights: Sequence[Weight], remember: Remember) -> Find:
        shared = Once(lambda: remember("all", lambda: threshold(weights)))
        return lambda weight: Zeroed(scoring(weight), shared.value())

    def of_each(weights: Sequence[Weight], remember: Remember) -> Find:
        return lambda weight: Zeroed(scoring(weight), remember(f"of {weight.name}", lambda: threshold([weight])))

    return of_all if together else of_each


def by_magnitude(weight: Weight) -> ByMagnitude:
    """Rank by distance from zero."""
    return ByMagnitude()


def by_chance(seed: int, weight: Weight) -> ByChance:
    """Rank by chance."""
    return ByChance(seed, weight.name)
