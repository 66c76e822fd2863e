"""Explain answers of one model: which number of an output, by which method, within which time."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from trimtab_api.package import ModelPackage
from trimtab_explainer.features import Choice, Features, Masks, features_of
from trimtab_explainer.methods import METHODS, Attribution, TimeIsOver, Values
from trimtab_runtime.model.session import Model
from trimtab_runtime.protocol.errors import BadRequest, InferenceFailed
from trimtab_runtime.protocol.tensors import Array

_ROWS: Final = 64  # of a run


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
    """Of one row: the `prediction` is what the model says of the target, by its place among the row's numbers."""

    features: Features
    attribution: Attribution
    output: str
    target: int
    label: str | None
    prediction: float


class Explainer:
    """Explains a model beside rows of a background, {input: [rows, ...]}, that stand in for what is hidden."""

    def __init__(self, model: Model, background: Mapping[str, Array], clock: Callable[[], float] = time.monotonic):
        self.package: Final = model.package
        self._model = model
        self._background = background
        self._clock = clock

    def explain(self, feeds: Mapping[str, Array], asked: Asked) -> list[Explanation]:
        """Explain each row. Raises BadRequest, Late where there was no time for it, and InferenceFailed."""
        rows = len(next(iter(feeds.values())))
        began = self._clock()
        found = []
        for row in range(rows):
            until = began + asked.seconds * (row + 1) / rows
            found.append(self._explain({name: array[row : row + 1] for name, array in feeds.items()}, asked, until))
        return found

    def _explain(self, row: Mapping[str, Array], asked: Asked, until: float) -> Explanation:
        features = features_of(self.package, row, self._background, asked.choice)
        output = asked.output or self.package.outputs[0].name
        answer = self._run(row, output)
        target = _target(self.package, output, answer, asked.target)
        picked = _picker(answer, target)

        def value(masks: Masks) -> Values:
            sets = max(1, _ROWS // features.stand_ins)
            found = []
            for start in range(0, len(masks), sets):
                if self._clock() > until:
                    raise TimeIsOver
                said = picked(self._run(features.shown(masks[start : start + sets]), output))
                found.append(said.reshape(-1, features.stand_ins).mean(axis=1))
            return np.concatenate(found)

        attribution = METHODS[asked.method](value, features.count, asked.samples, asked.seed)
        labels = self.package.labels
        label = labels[target] if labels and output == self.package.outputs[0].name and target < len(labels) else None
        return Explanation(features, attribution, output, target, label, float(picked(answer)[0]))

    def _run(self, feeds: Mapping[str, Array], output: str) -> Array:
        try:
            outputs = self._model.run(feeds)
        except Exception as error:  # neither runtime has a common base for what it raises
            failure = InferenceFailed("the model could not compute rows that hide features; the log has the cause")
            raise failure from error
        if output not in outputs:
            raise BadRequest(f"there is no output {output}; the model has {list(outputs)}")
        return outputs[output]


def _target(package: ModelPackage, output: str, answer: Array, asked: int | str | None) -> int:
    """Return the place of what is explained among the numbers of a row."""
    count = answer[0].size
    if answer.dtype.kind == "O":
        raise BadRequest(f"output {output} is text, of which nothing adds up; name another output")
    if isinstance(asked, str):
        if asked not in (package.labels or ()):
            raise BadRequest(f"there is no label {asked!r}; the package has {list(package.labels or ())}")
        asked = (package.labels or ()).index(asked)
    if asked is None:
        return int(np.argmax(answer[0])) if answer.dtype.kind == "f" else 0
    if not 0 <= asked < count:
        raise BadRequest(f"target {asked} is none of the {count} numbers of output {output}")
    return asked


def _picker(answer: Array, target: int) -> Callable[[Array], Values]:
    """Return what reads the target from answers: a number; of a whole one (a class) whether it is the same."""
    if answer.dtype.kind == "f":
        return lambda said: said.reshape(len(said), -1)[:, target].astype(np.float64)
    same: Any = answer.reshape(-1)[target]
    return lambda said: (said.reshape(len(said), -1)[:, target] == same).astype(np.float64)
