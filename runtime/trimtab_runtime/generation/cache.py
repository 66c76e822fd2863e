"""Keys and values of the tokens so far, in one array for each layer, a row for each sequence, within a budget.

Attention (the operator GroupQueryAttention) reads a row's first tokens and writes the new ones behind them, in place.
So rows of different lengths run together, and what nobody uses any more can be the beginning of another answer.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from trimtab_runtime.generation.folder import Folder
from trimtab_runtime.protocol.tensors import Array

_STEP: Final = 128  # tokens, by which rows grow


class Cache:
    """`arrays[0]` are keys and `arrays[1]` values: [rows, heads, capacity, head size] for each layer."""

    def __init__(self, folder: Folder, kind: "np.dtype[Any]", budget: int) -> None:
        self._shape = (folder.heads, folder.head_size)
        self._kind = kind
        self._token_bytes = folder.token_bytes(kind.itemsize)
        self._budget = budget
        self.rows = self.capacity = 0
        self.arrays: list[list[Array]] = [[self._made(0, 0) for _ in range(folder.layers)] for _ in range(2)]

    @property
    def most_tokens(self) -> int:
        """Return how long a sequence can become that is alone."""
        return self._budget // self._token_bytes // _STEP * _STEP

    def has_room(self, rows: int, tokens: int) -> bool:
        """Tell whether as many sequences of at most as many tokens are within the budget."""
        return rows * _rounded(tokens) * self._token_bytes <= self._budget

    def reserve(self, rows: int, tokens: int, most_rows: int, lengths: Sequence[int]) -> None:
        """Make room for as many sequences of as many tokens, and keep what rows hold, by their lengths.

        More rows than asked for are taken where they are within the budget, so that this happens seldom; what is
        never written to takes no memory.
        """
        if rows <= self.rows and tokens <= self.capacity:
            return
        capacity = _rounded(tokens)
        affordable = self._budget // (capacity * self._token_bytes)
        rows = max(rows, min(most_rows, affordable))
        made: list[list[Array]] = []  # all of them, before one takes its place: memory may end in between
        for arrays in self.arrays:
            made.append([])
            for old in arrays:
                new = self._made(rows, capacity)
                for row, length in enumerate(lengths[:rows]):
                    kept = min(length, capacity)
                    new[row, :, :kept] = old[row, :, :kept]
                made[-1].append(new)
        self.arrays, self.rows, self.capacity = made, rows, capacity

    def copy(self, source: int, row: int, tokens: int) -> None:
        """Put what a row holds into another, as far as `tokens`."""
        for arrays in self.arrays:
            for array in arrays:
                array[row, :, :tokens] = array[source, :, :tokens]

    def swap(self, one: int, other: int, tokens: int) -> None:
        """Exchange what two rows hold, as far as `tokens`."""
        for arrays in self.arrays:
            for array in arrays:
                array[[one, other], :, :tokens] = array[[other, one], :, :tokens]

    def _made(self, rows: int, capacity: int) -> Array:
        heads, size = self._shape
        return np.zeros((rows, heads, capacity, size), self._kind)


def _rounded(tokens: int) -> int:
    return -(-tokens // _STEP) * _STEP
