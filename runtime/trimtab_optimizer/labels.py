"""Labels of a data set: what they are labels of follows from their type and from the first output of the model.

| label                   | first output               | task    | measured                |
|-------------------------|----------------------------|---------|-------------------------|
| integers [rows]         | [rows, classes]            | classes | accuracy, agreement     |
| floats [rows, ...]      | [rows, ...]                | values  | rmse, meanAbsoluteError |
| floats [rows]           | one value a row            | values  | rmse, meanAbsoluteError |
| integers [rows, tokens] | [rows, tokens, vocabulary] | tokens  | perplexity              |
"""

from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trimtab_api.errors import InvalidData
from trimtab_api.package import ModelPackage
from trimtab_optimizer.tensors import fits

LABEL: Final = "label"
IGNORED: Final = -100  # a token that is not counted, as in torch

Labels = NDArray[Any]


class Task(StrEnum):
    """What labels say of each row."""

    CLASSES = "classes"
    VALUES = "values"
    TOKENS = "tokens"


def task_of(labels: Labels | None, package: ModelPackage) -> Task | None:
    """Return what the labels are, or None where there are none or only the package's own metrics know."""
    if labels is None:
        return None
    if np.issubdtype(labels.dtype, np.integer):
        is_tokens = labels.ndim == 2 and len(package.outputs[0].shape) == 3
        return Task.CLASSES if labels.ndim == 1 else Task.TOKENS if is_tokens else None
    is_values = np.issubdtype(labels.dtype, np.floating) and _fits_values(labels, package.outputs[0].shape)
    return Task.VALUES if is_values else None


def read_labels(values: Labels, package: ModelPackage) -> Labels:
    """Return labels that fit the model, integers as int64. Raises InvalidData saying what was expected."""
    task = task_of(values, package)
    if task is None and not package.metrics:
        raise _misfit(values, package)
    if task is Task.VALUES and not np.isfinite(values).all():
        raise InvalidData(f"`{LABEL}` holds values that are no numbers (NaN or infinite); clean the data")
    if task is Task.CLASSES:
        _check_range(values, classes_of(package))
    if task is Task.TOKENS:
        _check_range(values[values != IGNORED], classes_of(package))
    return values.astype(np.int64) if np.issubdtype(values.dtype, np.integer) else values


def check_that_labels_tell(labels: Labels, package: ModelPackage) -> None:
    """Raise InvalidData for labels on which every model, or none, can be right."""
    task = task_of(labels, package)
    mend = f"leave `{LABEL}` out to compare with the source alone"
    if task is Task.CLASSES and labels.min() == labels.max():
        only = int(labels[0])
        cause = f"every row has the class {only}, so whatever always answers {only} would be right"
        raise InvalidData(f"{cause}; take rows of at least two classes, or {mend}")
    if task is Task.TOKENS and (labels == IGNORED).all():
        raise InvalidData(f"every `{LABEL}` is {IGNORED}, so no token counts; label some tokens, or {mend}")


def classes_of(package: ModelPackage) -> int | None:
    """Return how many classes the first output tells apart, if model.yaml says so."""
    length = package.outputs[0].shape[-1] if len(package.outputs[0].shape) > 1 else -1
    return length if length > 0 else len(package.labels) if package.labels else None


def _fits_values(labels: Labels, shape: tuple[int, ...]) -> bool:
    one_a_row = labels.ndim == 1 and all(length in (1, -1) for length in shape[1:])
    return one_a_row or fits(labels.shape, shape)


def _check_range(values: Labels, classes: int | None) -> None:
    if not values.size:
        return
    low, high = int(values.min()), int(values.max())
    if classes == 1:
        mend = f"write `{LABEL}` as floats to measure how far off the values are"
        raise InvalidData(f"`{LABEL}` is {values.dtype}, and the first output has one value, which is no class; {mend}")
    if low < 0 or (classes is not None and high >= classes):
        raise InvalidData(f"`{LABEL}` goes from {low} to {high}, expected 0 to {'any' if not classes else classes - 1}")


def _misfit(values: Labels, package: ModelPackage) -> InvalidData:
    first = package.outputs[0]
    wanted = "integers of shape [-1], the class of each row"
    if len(first.shape) == 3:
        wanted += f"; integers of shape {list(first.shape[:2])}, the token at each place"
    wanted += f"; or floats of shape {list(first.shape)}, the values of {first.name}"
    return InvalidData(f"`{LABEL}` is {values.dtype} of shape {list(values.shape)}, expected {wanted}")
