"""Models that share an event loop. Runs in it have their turns one after the other, however much is asked of any.

So a queue waits for the turns of the others too: what is admitted to it has to know of them.
"""

from typing import Protocol


class InTurn(Protocol):
    """What feeds a model from the loop."""

    @property
    def is_idle(self) -> bool: ...

    def turn_seconds(self) -> float:
        """Return how long its next turn in the loop will take; 0 where none is due."""


class Turns:
    """All that feed models from one event loop."""

    def __init__(self) -> None:
        self._all: list[InTurn] = []

    def join(self, one: InTurn) -> None:
        """Take part from now on."""
        self._all.append(one)

    def is_only(self, one: InTurn) -> bool:
        """Tell whether nothing waits or runs but for one of them."""
        return len(self._all) == 1 or all(other is one or other.is_idle for other in self._all)

    def of_others(self, one: InTurn) -> float:
        """Return the seconds between two turns of one, in which the others have theirs."""
        if len(self._all) == 1:
            return 0.0
        return sum([other.turn_seconds() for other in self._all if other is not one])
