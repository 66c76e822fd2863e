"""Meters: each takes the answers to a data set batch by batch and keeps no more of them than its figures need."""

import math
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from trimtab_api.errors import InvalidData
from trimtab_api.report import (
    METRIC_ACCURACY,
    METRIC_AGREEMENT,
    METRIC_COSINE,
    METRIC_MEAN_ABSOLUTE_ERROR,
    METRIC_PERPLEXITY,
    METRIC_RECALL,
    METRIC_RMSE,
)
from trimtab_optimizer.labels import IGNORED, LABEL, Labels
from trimtab_optimizer.measuring.answers import Answers, scored

Outputs = list[NDArray[Any]]

MOST_KEPT: Final = 256 << 20  # bytes of answers that are kept of a model, to be compared with those of another
_LARGEST_EXPONENT: Final = 700.0  # of a larger one there is no float
_NO_LABELS: Final = f"the data has no `{LABEL}`; add the class of each row as integers"
_NO_CLASSES: Final = "the first output is no table of classes [rows, classes >= 2], so it has no largest class"


class Meter(Protocol):
    """Sees every batch once, in the order of the data; labels are there where the data has some."""

    def add(self, outputs: Outputs, labels: Labels | None) -> None: ...

    def read(self) -> Answers: ...


class Classes:
    """The largest class of each row, and whether it is the labelled one."""

    def __init__(self) -> None:
        self._found: list[NDArray[np.int64]] = []
        self._labels: list[Labels] = []
        self._is_table = True

    def add(self, outputs: Outputs, labels: Labels | None) -> None:
        scores = outputs[0]
        self._is_table = self._is_table and scores.ndim == 2 and scores.shape[1] > 1
        self._found += [_largest(scores)] if self._is_table else []
        self._labels += [] if labels is None else [labels]

    def read(self) -> Answers:
        names, absent = (METRIC_AGREEMENT,), {METRIC_ACCURACY: None}
        if not self._is_table:
            return Answers(absent, names, notes=dict.fromkeys((METRIC_ACCURACY, METRIC_AGREEMENT), _NO_CLASSES))
        classes = np.concatenate(self._found)
        if not self._labels:
            return Answers(absent, names, classes, notes={METRIC_ACCURACY: _NO_LABELS})
        right = classes == np.concatenate(self._labels)
        return Answers({METRIC_ACCURACY: float(right.mean())}, names, classes, right)


class Errors:
    """How far the values of the first output are from the labels."""

    def __init__(self) -> None:
        self._squared = self._absolute = 0.0
        self._count = 0

    def add(self, outputs: Outputs, labels: Labels | None) -> None:
        assert labels is not None
        wanted, found = labels.astype(np.float64), outputs[0].astype(np.float64)
        if wanted.ndim == 1 and found.size == wanted.size:
            found = found.reshape(-1)
        _check_shapes(wanted, found.shape)
        self._squared += float(np.square(found - wanted).sum())
        self._absolute += float(np.abs(found - wanted).sum())
        self._count += wanted.size

    def read(self) -> Answers:
        squared, absolute = self._squared / self._count, self._absolute / self._count
        return scored({METRIC_RMSE: math.sqrt(squared), METRIC_MEAN_ABSOLUTE_ERROR: absolute})


class Likelihood:
    """How likely the labelled tokens are to a model that gives [rows, tokens, vocabulary]."""

    def __init__(self) -> None:
        self._total, self._count = 0.0, 0

    def add(self, outputs: Outputs, labels: Labels | None) -> None:
        assert labels is not None
        _check_shapes(labels, outputs[0].shape[:-1])
        for scores, tokens in zip(outputs[0], labels, strict=True):  # row by row: a vocabulary is large
            counted = tokens != IGNORED
            self._total += _surprise(scores[counted].astype(np.float32), tokens[counted])
            self._count += int(counted.sum())

    def read(self) -> Answers:
        mean = self._total / self._count
        return scored({METRIC_PERPLEXITY: math.exp(mean) if mean < _LARGEST_EXPONENT else math.inf})


class Vectors:
    """The first output, flattened row by row, as far as memory allows."""

    def __init__(self) -> None:
        self._batches: list[NDArray[np.float32]] = []
        self._rows = self._kept = 0
        self._are_floats = True

    def add(self, outputs: Outputs, labels: Labels | None) -> None:
        self._are_floats = self._are_floats and np.issubdtype(outputs[0].dtype, np.floating)
        rows = outputs[0].reshape(len(outputs[0]), -1)
        self._rows += len(rows)
        most = max(1, MOST_KEPT // max(1, 4 * rows.shape[1]))
        if self._are_floats and self._kept < most:
            self._batches.append(rows[: most - self._kept].astype(np.float32))
            self._kept += len(self._batches[-1])

    def read(self) -> Answers:
        if not self._are_floats:
            return Answers()
        names = (METRIC_COSINE, METRIC_RECALL)
        note = f"measured on the first {self._kept} of {self._rows} rows, which fill the memory for it"
        notes = dict.fromkeys(names, note) if self._kept < self._rows else {}
        return Answers(compared=names, vectors=np.concatenate(self._batches), notes=notes)


def _largest(scores: NDArray[Any]) -> NDArray[np.int64]:
    """Return the largest class per row; a row with a value that is no number agrees with nothing: -1."""
    broken = ~np.isfinite(scores.astype(np.float64)).all(axis=1)
    return np.where(broken, -1, scores.argmax(axis=1)).astype(np.int64)


def _surprise(scores: NDArray[np.float32], tokens: Labels) -> float:
    """Return the negative log likelihood of tokens [places] under scores [places, vocabulary]."""
    if not tokens.size:
        return 0.0
    if tokens.max() >= scores.shape[1]:
        raise InvalidData(
            f"`{LABEL}` goes up to {tokens.max()}, and the model knows the tokens 0 to {scores.shape[1] - 1}"
        )
    highest = scores.max(axis=1, keepdims=True)
    sums = np.log(np.exp(scores - highest).sum(axis=1, dtype=np.float64)) + highest[:, 0]
    return float((sums - scores[np.arange(len(tokens)), tokens]).sum())


def _check_shapes(labels: Labels, shape: tuple[int, ...]) -> None:
    if labels.shape != shape:
        wanted, found = list(labels.shape[1:]) or "one value", list(shape[1:]) or "one value"
        raise InvalidData(f"`{LABEL}` has {wanted} a row, and the model answers {found}; give what it answers")
