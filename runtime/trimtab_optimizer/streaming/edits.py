"""Other values in the place of weights: clipped, or zero where they count least."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from trimtab_optimizer.streaming.kernels import Floats
from trimtab_optimizer.streaming.magnitudes import Scoring, by_magnitude, magnitude, ranked
from trimtab_optimizer.streaming.weights import Weight


class Edit(Protocol):
    """A function of each value alone, and of where it is."""

    def apply(self, weight: Weight, start: int, values: Floats) -> Floats:
        """Return new values for those that begin at a position of a weight."""


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Leaves values as they are; for when only their form is to change."""

    def apply(self, weight: Weight, start: int, values: Floats) -> Floats:
        """Return the values."""
        return values


@dataclass(frozen=True, slots=True)
class Clipped:
    """Values beyond a limit become the limit; one limit for each weight."""

    limits: Mapping[str, float]

    def apply(self, weight: Weight, start: int, values: Floats) -> Floats:
        """Return values between the limit and its negative."""
        limit = np.float32(self.limits[weight.name])
        return np.clip(values, -limit, limit)


@dataclass(frozen=True, slots=True)
class Zeroed:
    """Values whose score is below a threshold become zero; one threshold for each weight."""

    scoring: Scoring
    thresholds: Mapping[str, int]

    def apply(self, weight: Weight, start: int, values: Floats) -> Floats:
        """Return values of which some are zero."""
        keep = self.scoring(weight, start, values) >= np.uint32(self.thresholds[weight.name])
        return np.where(keep.reshape(values.shape), values, np.float32(0))


def clip_at(weights: Sequence[Weight], percentile: float) -> Clipped:
    """Return the edit that clips each weight at a percentile of its own magnitudes."""
    limits = {}
    for weight in weights:
        rank = min(round(weight.count * percentile / 100), weight.count - 1)
        limits[weight.name] = magnitude(ranked([weight], by_magnitude, rank))
    return Clipped(limits)


def zero_smallest(weights: Sequence[Weight], scoring: Scoring, amount: float, together: bool) -> Zeroed:
    """Return the edit that zeroes a part of the values: of each weight, or of all of them together."""
    groups = [list(weights)] if together else [[weight] for weight in weights]
    thresholds = {}
    for group in groups:
        total = sum(weight.count for weight in group)
        score = ranked(group, scoring, min(round(total * amount), total - 1))
        thresholds.update({weight.name: score for weight in group})
    return Zeroed(scoring, thresholds)
