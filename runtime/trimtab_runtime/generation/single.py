"""A decoder by ONNX Runtime GenAI's own generator, for every model that it knows: one sequence after the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from trimtab_api.errors import InvalidPackage
from trimtab_runtime.generation.folder import Folder
from trimtab_runtime.generation.library import genai
from trimtab_runtime.protocol.tensors import Array

_STEP: Final = 256  # tokens


@dataclass(slots=True)
class _Row:
    """A generator, how many tokens it holds, and how many it can."""

    generator: Any
    length: int
    capacity: int


class SingleDecoder:
    """Raises InvalidPackage for a folder that cannot be loaded."""

    def __init__(self, folder: Folder, threads: int, most_rows: int, budget: int) -> None:
        self._library = genai()
        try:
            config = self._library.Config(str(folder.path))
            config.clear_providers()  # those of other devices load libraries
            config.overlay(f'{{"model":{{"decoder":{{"session_options":{{"intra_op_num_threads":{threads}}}}}}}}}')
            self._model = self._library.Model(config)
        except Exception as error:  # the library has no base for what it raises
            raise InvalidPackage(f"{folder.graph.name} cannot be loaded: {error}") from error
        self._budget_tokens = budget // folder.token_bytes(4)
        self._most_rows = most_rows
        self._rows: list[_Row | None] = [None] * most_rows
        self._capacity = 0
        self._kept = most_rows
        self.most_tokens: int = min(folder.context, self._budget_tokens)

    @property
    def rows(self) -> int:
        """Return how many generators the memory is for."""
        return self._kept

    def length(self, row: int) -> int:
        """Return how many tokens a generator holds."""
        used = self._rows[row]
        return used.length if used is not None else 0

    def has_room(self, rows: int, tokens: int) -> bool:
        """Tell whether as many generators may have caches of this length."""
        return rows <= self._most_rows and rows * self._rounded(tokens) <= self._budget_tokens

    def reserve(self, rows: int, tokens: int) -> None:
        """Remember how long the caches of new generators have to be; those beyond the memory go.

        The first rows but one are in use. Of the others, those whose caches are longer go too.
        """
        self._capacity = self._rounded(tokens)
        self._kept = max(rows, min(self._most_rows, self._budget_tokens // self._capacity))
        for row in range(rows - 1, self._most_rows):
            used = self._rows[row]
            if used is not None and (row >= self._kept or used.capacity > self._capacity):
                self._rows[row] = None

    def extend(self, row: int, tokens: Sequence[int]) -> Array:
        """Append tokens to a generator."""
        used = self._rows[row] = self._rows[row] or self._opened()
        used.generator.append_tokens(np.asarray(tokens, np.int32))
        used.length += len(tokens)
        logits = np.asarray(used.generator.get_logits(), np.float32)
        last: Array = logits.reshape(-1, logits.shape[-1])[-1]
        return last

    def step(self, tokens: Sequence[int]) -> Array:
        """Append a token to each generator in turn."""
        return np.stack([self.extend(row, [token]) for row, token in enumerate(tokens)])

    def cut(self, row: int, tokens: int) -> int:
        """Let a generator go back, where its cache is long enough for what comes."""
        used = self._rows[row]
        if used is None or tokens == 0 or used.capacity < self._capacity:
            self._rows[row] = None
            return 0
        try:
            if tokens < used.length:
                used.generator.rewind_to(tokens)
        except Exception:  # caches of windows, convolutions and the like cannot go back
            self._rows[row] = None
            return 0
        used.length = min(tokens, used.length)
        return used.length

    def copy(self, source: int, row: int, tokens: int) -> int:
        """Begin a generator anew: what another holds cannot be had."""
        return self.cut(row, 0)

    def swap(self, one: int, other: int) -> None:
        """Exchange two generators."""
        self._rows[one], self._rows[other] = self._rows[other], self._rows[one]

    def _rounded(self, tokens: int) -> int:
        """Return how long a cache is made for as many tokens: a conversation that goes on may need some more."""
        return min(self.most_tokens, -(-tokens // _STEP) * _STEP)

    def _opened(self) -> _Row:
        parameters = self._library.GeneratorParams(self._model)
        parameters.set_search_options(max_length=self._capacity, batch_size=1)
        return _Row(self._library.Generator(self._model, parameters), 0, self._capacity)
