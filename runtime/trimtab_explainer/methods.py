"""How much each feature adds to an answer, from answers to rows that hide some of them.

`shap`: Shapley values by permutations, each taken forth and back (antithetic), as shap's PermutationExplainer does
(Castro et al. 2009; Lundberg and Lee 2017). They sum to the difference between the answer and that to nothing.
`lime`: the weights of a linear model that was fitted near the row (Ribeiro et al. 2016; the kernel is that
of their package for text).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trimtab_explainer.features import Masks
from trimtab_runtime.protocol.errors import BadRequest, Late

Values = NDArray[np.float64]
Value = Callable[[Masks], Values]  # what the model says to sets of features. Raises TimeIsOver

_KERNEL_WIDTH: Final = 0.25
_RIDGE: Final = 1e-3  # of the weight of all sets; theirs is 1 in all, which shrinks what few features add
_FEWEST: Final = 16
_STEP: Final = 16  # sets of features, all of which are of no use where the time is over in their midst
_MOST_MASKS: Final = 4_000_000  # samples by features: what is fitted at the end is fitted past any time limit


class TimeIsOver(Exception):
    """The time for an explanation has passed."""


@dataclass(frozen=True, slots=True)
class Attribution:
    """Of each feature what it adds, and the standard error of that where there is one; `base` is the rest.

    `fit` is how much of the answers' variance a linear model explains; `is_complete` is false where time was short.
    """

    values: Values
    errors: Values | None
    base: float
    samples: int
    is_complete: bool
    fit: float | None = None


def shapley(value: Value, count: int, samples: int, seed: int) -> Attribution:
    """Return Shapley values from about so many answers; at least two for each feature are needed."""
    random = np.random.default_rng(seed)
    a_round = max(1, 2 * (count - 1))
    if a_round + 2 > samples:
        raise BadRequest(
            f"{count} features need at least {a_round + 2} samples for shap, and {samples} are allowed; allow more, "
            "take method lime, or explain fewer inputs"
        )
    try:
        nothing, everything = value(np.stack([np.zeros(count, np.bool_), np.ones(count, np.bool_)]))
    except TimeIsOver:
        raise Late("the time was over before anything was tried; allow more") from None
    rounds: list[Values] = []
    is_complete = True
    while not rounds or (len(rounds) + 1) * a_round + 2 <= samples:
        try:
            rounds.append(_round(value, random.permutation(count), nothing, everything))
        except TimeIsOver:
            if not rounds:
                raise Late("the time was over before every feature was tried once; allow more, or take lime") from None
            is_complete = False
            break
        if count <= 2:
            break  # both ways are all there are
    found = np.stack(rounds)
    errors = found.std(axis=0, ddof=1) / np.sqrt(len(rounds)) if len(rounds) > 1 else None
    return Attribution(found.mean(axis=0), errors, float(nothing), len(rounds) * a_round + 2, is_complete)


def _round(value: Value, order: NDArray[np.int64], nothing: float, everything: float) -> Values:
    """Add features in an order and in the opposite one; return the mean of what each added."""
    count = len(order)
    places = np.empty(count, np.int64)
    places[order] = np.arange(count)
    sizes = np.arange(1, count)[:, np.newaxis]
    forth = places < sizes  # [count - 1, count]: the first 1, 2, ... of the order
    back = places >= count - sizes  # the last 1, 2, ...
    said = value(np.concatenate([forth, back])) if count > 1 else np.empty(0)
    added = np.empty((2, count))
    for at, (answers, way) in enumerate(((said[: count - 1], order), (said[count - 1 :], order[::-1]))):
        added[at, way] = np.diff(answers, prepend=nothing, append=everything)
    mean: Values = added.mean(axis=0)
    return mean


def lime(value: Value, count: int, samples: int, seed: int) -> Attribution:
    """Return the weights of a linear model of answers to as many random sets, the near ones first of all."""
    if samples * count > _MOST_MASKS:
        most = _MOST_MASKS // count
        raise BadRequest(f"of {count} features lime takes {most} samples at most, not {samples}; ask for fewer")
    random = np.random.default_rng(seed)
    masks = np.ones((max(samples, _FEWEST), count), np.bool_)
    for mask in masks[1:]:
        mask[random.choice(count, random.integers(1, count + 1), replace=False)] = False
    said: list[Values] = []
    is_complete = True
    for start in range(0, len(masks), _STEP):
        try:
            said.append(value(masks[start : start + _STEP]))
        except TimeIsOver:
            is_complete = False
            break
    answers = np.concatenate(said) if said else np.empty(0)
    if len(answers) < min(_FEWEST, len(masks)):
        raise Late("the time was over before a linear model could be fitted; allow more")
    return _fitted(masks[: len(answers)].astype(np.float64), answers, is_complete)


def _fitted(shown: Values, answers: Values, is_complete: bool) -> Attribution:
    distance = 1 - np.sqrt(shown.mean(axis=1))  # of the cosine, to the row that shows everything
    weights = np.sqrt(np.exp(-((distance / _KERNEL_WIDTH) ** 2)))
    middle = np.average(shown, axis=0, weights=weights)
    level = np.average(answers, weights=weights)
    near, gap = shown - middle, answers - level
    slopes: Values = np.linalg.solve(
        (near.T * weights) @ near + _RIDGE * weights.sum() * np.eye(shown.shape[1]), (near.T * weights) @ gap
    )
    variance = float(np.average(gap**2, weights=weights))
    left = float(np.average((gap - near @ slopes) ** 2, weights=weights))
    fit = 1 - left / variance if variance > 0 else 1.0
    return Attribution(slopes, None, float(level - middle @ slopes), len(answers), is_complete, fit)


METHODS: Final = {"shap": shapley, "lime": lime}
