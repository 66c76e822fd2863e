"""Numbers that the processes of a server count, each in a row of its own of memory that they share.

So whichever process is asked for metrics tells those of all, and a process that died is not forgotten: the one in its
place counts on in its row. A process writes to its own row only, so there is no lock.
"""

import mmap
from typing import Final, TypeAlias

_WORD: Final = 8  # bytes of a number
_LINE: Final = 64  # bytes that processors fetch together: two rows in one would slow their writers down

Row: TypeAlias = "memoryview[float]"  # which counts exactly to 2**53


class Tallies:
    """A row of `size` numbers for each process. Made before the processes are forked."""

    def __init__(self, processes: int, size: int) -> None:
        length = -(-size * _WORD // _LINE) * _LINE
        shared = memoryview(mmap.mmap(-1, processes * length))
        starts = [at * length for at in range(processes)]
        self.rows: Final[tuple[Row, ...]] = tuple(shared[start : start + size * _WORD].cast("d") for start in starts)

    def total(self) -> list[float]:
        """Return the sums over all processes."""
        return [sum(numbers) for numbers in zip(*self.rows, strict=True)]
