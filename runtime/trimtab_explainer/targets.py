"""Which number of an answer is explained: a score by its place, or whether a class is answered, by its number."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trimtab_api.package import ModelPackage
from trimtab_explainer.methods import Values
from trimtab_runtime.protocol.errors import BadRequest
from trimtab_runtime.protocol.tensors import Array


@dataclass(frozen=True, slots=True)
class Target:
    """`number` is the place among the numbers of a row, or the class; `read` turns answers into what is explained."""

    number: int
    label: str | None
    read: Callable[[Array], Values]


def target_of(package: ModelPackage, output: str, answer: Array, asked: int | str | None) -> Target:
    """Return what is explained of the answer to one row; without a wish its own class. Raises BadRequest."""
    if answer.dtype.kind == "O":
        raise BadRequest(f"output {output} is text, of which nothing adds up; name another output")
    labels = (package.labels or ()) if output == package.outputs[0].name else ()
    if isinstance(asked, str):
        if asked not in labels:
            raise BadRequest(f"there is no label {asked!r} of output {output}; there are {list(labels)}")
        asked = labels.index(asked)
    if answer.dtype.kind in "iu" and answer[0].size == 1:
        return _class(labels, int(answer.reshape(-1)[0]) if asked is None else asked)
    return _score(labels, output, answer, asked)


def _class(labels: tuple[str, ...], number: int) -> Target:
    """Explain whether this class is answered, which the model tells by its number."""
    label = labels[number] if 0 <= number < len(labels) else None
    return Target(number, label, lambda said: (said.reshape(-1) == number).astype(np.float64))


def _score(labels: tuple[str, ...], output: str, answer: Array, asked: int | None) -> Target:
    count = answer[0].size
    place = int(np.argmax(answer[0])) if asked is None else asked
    if not 0 <= place < count:
        raise BadRequest(f"target {place} is none of the {count} numbers of output {output}")
    label = labels[place] if answer.ndim == 2 and count == len(labels) else None
    return Target(place, label, lambda said: said.reshape(len(said), -1)[:, place].astype(np.float64))
