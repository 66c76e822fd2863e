"""What computes the next token: the one interface of two ways to run a decoder."""

from collections.abc import Sequence
from typing import Protocol

from trimtab_runtime.protocol.tensors import Array


class Decoder(Protocol):
    """A loaded decoder with sequences in rows. One thread uses it. Logits are float32, one for each token there is."""

    most_tokens: int  # of a sequence, its prompt and its answer

    @property
    def rows(self) -> int:
        """Return how many rows there are now."""

    def length(self, row: int) -> int:
        """Return how many tokens a row holds."""

    def has_room(self, rows: int, tokens: int) -> bool:
        """Tell whether as many sequences of at most as many tokens are within the memory that is allowed."""

    def reserve(self, rows: int, tokens: int) -> None:
        """Make room for them; what rows hold is kept, as far as it fits."""

    def extend(self, row: int, tokens: Sequence[int]) -> Array:
        """Put tokens behind those of a row, and return the logits after the last one: [vocabulary]."""

    def step(self, tokens: Sequence[int]) -> Array:
        """Put a token behind each of the first rows, and return the logits after it: [rows, vocabulary]."""

    def cut(self, row: int, tokens: int) -> int:
        """Forget all but the first tokens of a row, for another answer; return how many of them it holds."""

    def copy(self, source: int, row: int, tokens: int) -> int:
        """Put the first tokens of a row into another in place of all else; return how many of them it then holds."""

    def swap(self, one: int, other: int) -> None:
        """Exchange two rows."""
