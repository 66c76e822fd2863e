"""Bytes of requests that are on their way, of all connections together: one limit bounds them, however many there are.

What has arrived waits in the engine's queue, which has a limit of its own.
"""

from typing import Final

from trimtab_runtime.protocol.errors import Busy
from trimtab_runtime.tallies import Row

_AGAIN_SECONDS: Final = 1.0


class Intake:
    """Counts what is held, in a cell that metrics read. Who takes has to give back, also where `take` raised."""

    def __init__(self, most: int, cell: "Row | None" = None) -> None:
        self._most = most
        self._cell = memoryview(bytearray(8)).cast("d") if cell is None else cell

    def take(self, size: int) -> None:
        """Hold more bytes. Raises Busy where that is too much; they are counted all the same."""
        self._cell[0] += size
        if self._cell[0] > self._most:
            held = int(self._cell[0])
            text = f"requests that are on their way have {held} bytes, more than {self._most}; try again later"
            raise Busy(text, _AGAIN_SECONDS)

    def give(self, size: int) -> None:
        """Hold fewer bytes."""
        self._cell[0] -= size
