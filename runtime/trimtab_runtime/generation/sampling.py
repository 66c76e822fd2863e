"""Which token comes next, out of logits: greedy, or at random as far as a caller allows.

Settings are those of OpenAI's API, and what others added to it (top_k, min_p, repetition_penalty).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np

from trimtab_runtime.protocol.tensors import Array

_NO_BIAS: Final[Mapping[int, float]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. A temperature of 0 takes the most likely one; `logprobs` is how many others are told."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    bias: Mapping[int, float] = field(default_factory=lambda: _NO_BIAS)
    logprobs: int | None = None


class Likely(NamedTuple):
    """A token with the logarithm of its probability, as the model gave it."""

    token: int
    logprob: float


class Chosen(NamedTuple):
    """The next token. `logprob` and the likeliest ones are there where they were asked for."""

    token: int
    logprob: float | None = None
    likeliest: tuple[Likely, ...] = ()


class Sampler:
    """Chooses the tokens of one answer. The same seed, prompt and settings give the same ones."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed)
        self._seen = set(prompt) if sampling.repetition_penalty != 1.0 else set()
        self._counts: Counter[int] = Counter()

    def choose(self, logits: Array, forbidden: frozenset[int]) -> Chosen:
        """Return the next token: never a forbidden one."""
        adjusted = self._adjusted(logits, forbidden)
        token = self._drawn(adjusted) if self._sampling.temperature > 0 else int(adjusted.argmax())
        self._counts[token] += 1
        if self._sampling.repetition_penalty != 1.0:
            self._seen.add(token)
        return Chosen(token) if self._sampling.logprobs is None else _told(logits, token, self._sampling.logprobs)

    def _adjusted(self, logits: Array, forbidden: frozenset[int]) -> Array:
        """Return logits with penalties: as Keskar et al. (2019) for repetition, as OpenAI's API for the others."""
        sampling = self._sampling
        penalized = self._counts if sampling.presence_penalty or sampling.frequency_penalty else ()
        if not (forbidden or sampling.bias or self._seen or penalized):
            return logits
        adjusted = logits.copy()
        if self._seen:
            seen = np.fromiter(self._seen, np.int64)
            values = adjusted[seen]
            adjusted[seen] = np.where(
                values > 0, values / sampling.repetition_penalty, values * sampling.repetition_penalty
            )
        for token in penalized:
            adjusted[token] -= sampling.presence_penalty + sampling.frequency_penalty * self._counts[token]
        for token, bias in sampling.bias.items():
            adjusted[token] += bias
        adjusted[list(forbidden)] = -np.inf
        return adjusted

    def _drawn(self, logits: Array) -> int:
        sampling = self._sampling
        tokens = _highest(logits, sampling.top_k) if sampling.top_k else np.arange(len(logits))
        values = logits[tokens].astype(np.float64) / sampling.temperature
        weights = np.exp(values - values.max())
        if sampling.top_p < 1 or sampling.min_p > 0:
            order = np.argsort(-weights, kind="stable")
            tokens, weights = tokens[order], weights[order]
            kept = _nucleus(weights, sampling.top_p) & (weights >= sampling.min_p * weights[0])
            tokens, weights = tokens[kept], weights[kept]
        total = np.cumsum(weights)
        return int(
            tokens[min(int(np.searchsorted(total, self._random.random() * total[-1], "right")), len(tokens) - 1)]
        )


def _nucleus(weights: Array, top_p: float) -> Array:
    """Tell which of descending weights make up the least set of this share (Holtzman et al., 2019)."""
    before = np.cumsum(weights) - weights
    kept: Array = before < top_p * weights.sum()
    kept[0] = True
    return kept


def _highest(values: Array, count: int) -> Array:
    if count >= len(values):
        return np.arange(len(values))
    return np.argpartition(values, -count)[-count:]


def _told(logits: Array, token: int, count: int) -> Chosen:
    values = logits.astype(np.float64)
    values -= values.max()
    values -= np.log(np.exp(values).sum())
    highest = _highest(values, count) if count else np.zeros(0, np.int64)
    ordered = sorted((Likely(int(at), float(values[at])) for at in highest), key=lambda item: -item.logprob)
    return Chosen(token, float(values[token]), tuple(ordered))
