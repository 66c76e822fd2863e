"""Explain answers of one model: which number of an output, by which method, within which time."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from trimtab_explainer.features import Choice, Features, Masks, features_of
from trimtab_explainer.methods import METHODS, Attribution, TimeIsOver, Values
from trimtab_explainer.targets import Target, target_of
from trimtab_runtime.model.session import Model
from trimtab_runtime.protocol.errors import BadRequest, InferenceFailed, Late
from trimtab_runtime.protocol.inputs import count_rows
from trimtab_runtime.protocol.tensors import Array

_MOST_ROWS: Final = 64  # of a run
_MOST_BYTES: Final = 64 << 20  # of what goes into a run and comes out of it
_LONG_RUN: Final = 0.5  # seconds, above which the next run has fewer rows: between runs the clock is looked at


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller wants to know. A `target` is a class, by its place in the output or its label; None: the answer."""

    method: str
    samples: int
    seconds: float
    seed: int = 0
    output: str | None = None
    target: int | str | None = None
    choice: Choice = field(default_factory=Choice)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Of one row: the `prediction` is what the model says of the target."""

    features: Features
    attribution: Attribution
    output: str
    target: int
    label: str | None
    prediction: float


@dataclass(frozen=True, slots=True)
class Limit:
    """Until when an explanation is of use, by the explainer's clock; `has_left` tells whether its caller is gone."""

    until: float
    has_left: Callable[[], bool] = lambda: False


class Explainer:
    """Explains a model beside rows of a background, {input: [rows, ...]}, that stand in for what is hidden."""

    def __init__(self, model: Model, background: Mapping[str, Array], clock: Callable[[], float] = time.monotonic):
        self.package: Final = model.package
        self.clock: Final = clock
        self._model = model
        self._background = background

    def explain(self, feeds: Mapping[str, Array], asked: Asked, limit: Limit) -> list[Explanation]:
        """Explain each row, as far as the time goes. Raises BadRequest, InferenceFailed, and Late for none at all."""
        rows = count_rows(feeds)
        began, found = self.clock(), list[Explanation]()
        for row in range(rows):
            until = began + (limit.until - began) * (row + 1) / rows
            one = {name: array[row : row + 1] for name, array in feeds.items()}
            try:
                found.append(self._explain(one, asked, Limit(until, limit.has_left)))
            except Late:
                if not found:
                    raise
                break
        return found

    def _explain(self, row: Mapping[str, Array], asked: Asked, limit: Limit) -> Explanation:
        features = features_of(self.package, row, self._background, asked.choice)
        output = asked.output or self.package.outputs[0].name
        answer = self._run(row, output)
        target = target_of(self.package, output, answer, asked.target)
        prediction = float(target.read(answer)[0])
        if not np.isfinite(prediction):
            raise BadRequest(f"the model answers {prediction} to this row, of which nothing adds up")
        ask = _Asking(features, lambda feeds: target.read(self._run(feeds, output)), limit, self.clock, row, answer)
        attribution = METHODS[asked.method](ask.value, features.count, asked.samples, asked.seed)
        return _explained(features, attribution, output, target, prediction)

    def _run(self, feeds: Mapping[str, Array], output: str) -> Array:
        try:
            outputs = self._model.run(feeds)
        except Exception as error:  # neither runtime has a common base for what it raises
            failure = InferenceFailed("the model could not compute rows that hide features; the log has the cause")
            raise failure from error
        if output not in outputs:
            raise BadRequest(f"there is no output {output}; the model has {list(outputs)}")
        return outputs[output]


def _explained(
    features: Features, attribution: Attribution, output: str, target: Target, prediction: float
) -> Explanation:
    if not np.isfinite(attribution.values).all() or not np.isfinite(attribution.base):
        raise BadRequest("the model answers with numbers that are not finite to rows that hide features")
    return Explanation(features, attribution, output, target.number, target.label, prediction)


class _Asking:
    """Asks the model what it says to sets of features, in runs that are neither large nor long."""

    def __init__(
        self,
        features: Features,
        read: Callable[[Mapping[str, Array]], Values],
        limit: Limit,
        clock: Callable[[], float],
        row: Mapping[str, Array],
        answer: Array,
    ) -> None:
        self._features = features
        self._read = read
        self._limit = limit
        self._clock = clock
        weight = 2 * sum(array.nbytes for array in row.values()) + answer.nbytes
        self._rows = max(1, min(_MOST_ROWS, _MOST_BYTES // max(1, weight)))

    def value(self, masks: Masks) -> Values:
        """Return the mean answer to each set of features. Raises TimeIsOver."""
        found, at = [], 0
        while at < len(masks):
            sets = max(1, self._rows // self._features.stand_ins)
            said = self._answers(self._features.shown(masks[at : at + sets]))
            found.append(said.reshape(-1, self._features.stand_ins).mean(axis=1))
            at += sets
        return np.concatenate(found)

    def _answers(self, feeds: Mapping[str, Array]) -> Values:
        found, at, count = [], 0, len(next(iter(feeds.values())))
        while at < count:
            began = self._clock()
            if began > self._limit.until or self._limit.has_left():
                raise TimeIsOver
            rows = self._rows
            found.append(self._read({name: array[at : at + rows] for name, array in feeds.items()}))
            at += rows
            if self._clock() - began > _LONG_RUN:
                self._rows = max(1, rows // 2)
        return np.concatenate(found)
