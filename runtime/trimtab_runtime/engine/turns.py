"""Models that run in one event loop have their turns one after the other, however much is asked of any.

So a queue waits for the turns of the others too: what is admitted to it has to know of them.
"""

from typing import Protocol


class InTurn(Protocol):
    """What runs in the loop."""

    def turn_seconds(self) -> float:
        """Return how long its next turn will take; 0 where nothing waits for it."""


class Turns:
    """Those who run in one event loop."""

    def __init__(self) -> None:
        self._all: list[InTurn] = []

    def join(self, one: InTurn) -> None:
        """Have turns from now on."""
        self._all.append(one)

    def of_others(self, one: InTurn) -> float:
        """Return the seconds between two turns of one, in which the others have theirs."""
        if len(self._all) == 1:
            return 0.0
        return sum([other.turn_seconds() for other in self._all if other is not one])
