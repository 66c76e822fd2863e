"""A decoder in plain ONNX Runtime, in which sequences of different lengths advance together.

Graphs of ONNX Runtime GenAI's builder attend by GroupQueryAttention, which knows each row's length and keeps keys and
values in place. GenAI's own engine runs one sequence after the other on a CPU, or batches that begin and end together:
what it computes token by token is here one run for all.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from trimtab_api.errors import InvalidPackage
from trimtab_runtime.generation.cache import Cache
from trimtab_runtime.generation.folder import Folder
from trimtab_runtime.model.onnx import open_session
from trimtab_runtime.protocol.tensors import Array

_KINDS: Final[dict[str, np.dtype[Any]]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
}
_CPU: Final = "cpu"
_CHANGES_POSITIONS: Final = b"cos_cache_large"  # as the builder names what only long contexts use


class BatchedDecoder:
    """Raises InvalidPackage for a graph that is not made so."""

    def __init__(self, folder: Folder, threads: int, most_rows: int, budget: int) -> None:
        self._folder = folder
        if _CHANGES_POSITIONS in folder.graph.read_bytes():
            raise InvalidPackage("the graph changes how it turns positions by the longest row of a batch (LongRoPE)")
        self._session = open_session(folder.graph, threads, spins=True)
        kinds = {item.name: item.type for item in self._session.get_inputs()}
        self._pasts = [_names(folder.inputs, kind, folder.layers) for kind in ("past_key_names", "past_value_names")]
        self._presents = [
            _names(folder.outputs, kind, folder.layers) for kind in ("present_key_names", "present_value_names")
        ]
        self._words, self._mask, self._positions = (
            folder.inputs.get(name, name) for name in ("input_ids", "attention_mask", "position_ids")
        )
        self._takes_positions = self._positions in kinds
        self._check(set(kinds))
        self._kind = _KINDS[kinds[self._pasts[0][0]]]
        self._cache = Cache(folder, self._kind, budget)
        self._lengths = np.zeros(0, np.int64)
        self._most_rows = most_rows
        self.most_tokens: int = min(folder.context, self._cache.most_tokens)

    @property
    def rows(self) -> int:
        """Return the rows of the cache."""
        return self._cache.rows

    def length(self, row: int) -> int:
        """Return how many tokens of a row are in the cache."""
        return int(self._lengths[row])

    def has_room(self, rows: int, tokens: int) -> bool:
        """Tell whether the cache has room."""
        return rows <= self._most_rows and self._cache.has_room(rows, tokens)

    def reserve(self, rows: int, tokens: int) -> None:
        """Let the cache grow."""
        self._cache.reserve(rows, tokens, self._most_rows, self._lengths.tolist())
        lengths = np.zeros(self._cache.rows, np.int64)
        kept = min(len(lengths), len(self._lengths))
        lengths[:kept] = np.minimum(self._lengths[:kept], self._cache.capacity)
        self._lengths = lengths

    def extend(self, row: int, tokens: Sequence[int]) -> Array:
        """Run one row."""
        logits: Array = self._run(row, row + 1, np.asarray([tokens], np.int64))[0]
        return logits

    def step(self, tokens: Sequence[int]) -> Array:
        """Run the first rows."""
        return self._run(0, len(tokens), np.asarray(tokens, np.int64)[:, None])

    def cut(self, row: int, tokens: int) -> int:
        """Make a row shorter: what is behind its length is written over."""
        self._lengths[row] = min(tokens, self._lengths[row])
        return int(self._lengths[row])

    def copy(self, source: int, row: int, tokens: int) -> int:
        """Copy keys and values."""
        self._cache.copy(source, row, tokens)
        self._lengths[row] = tokens
        return tokens

    def swap(self, one: int, other: int) -> None:
        """Exchange the rows of the cache."""
        self._cache.swap(one, other, int(self._lengths[[one, other]].max()))
        self._lengths[[one, other]] = self._lengths[[other, one]]

    def _check(self, inputs: set[str]) -> None:
        known = {self._words, self._mask, *(name for names in self._pasts for name in names)}
        if inputs - {self._positions} != known:
            odd = sorted((inputs ^ known) - {self._positions})
            raise InvalidPackage(f"the graph has other inputs than a decoder with a cache for each layer: {odd[:4]}")

    def _run(self, first: int, end: int, words: Array) -> Array:
        """Run rows on their next words: [rows, words]. Bindings point into the cache, and to arrays that live here."""
        before = self._lengths[first:end]
        after = before + words.shape[1]
        mask = (np.arange(after.max()) < after[:, None]).astype(np.int64)
        binding = self._session.io_binding()
        binding.bind_cpu_input(self._words, words)
        binding.bind_cpu_input(self._mask, mask)
        if self._takes_positions:
            positions = before[:, None] + np.arange(words.shape[1])
            binding.bind_cpu_input(self._positions, positions)
        binding.bind_output(self._folder.outputs.get("logits", "logits"), _CPU)
        self._bind_cache(binding, first, end)
        self._session.run_with_iobinding(binding)
        self._lengths[first:end] = after
        logits: Array = np.asarray(binding.get_outputs()[0].numpy()[:, -1], np.float32)
        return logits

    def _bind_cache(self, binding: Any, first: int, end: int) -> None:
        for arrays, pasts, presents in zip(self._cache.arrays, self._pasts, self._presents, strict=True):
            for array, past, present in zip(arrays, pasts, presents, strict=True):
                part = array[first:end]
                binding.bind_input(past, _CPU, 0, self._kind, part.shape, part.ctypes.data)
                binding.bind_output(present, _CPU, 0, self._kind, part.shape, part.ctypes.data)


def _names(named: Any, key: str, layers: int) -> list[str]:
    pattern = named.get(key, "")
    if "%d" not in pattern:
        raise InvalidPackage(f"the decoder has no {key}")
    return [pattern % layer for layer in range(layers)]
