"""What the answers of one model to the evaluation data say: its own scores, and what a comparison needs of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

_NO_NUMBER: Final = "the answers hold values that are no numbers, or too large ones"


@dataclass(frozen=True, slots=True)
class Answers:
    """`scores` are figures of this model alone; `compared` names those that take the source's answers too.

    `classes` is the largest class of each row, `right` whether it is the labelled one, `vectors` the first output
    flattened. What a model or its data does not have is None.
    """

    scores: Mapping[str, float | None] = field(default_factory=dict)
    compared: tuple[str, ...] = ()
    classes: NDArray[np.int64] | None = None
    right: NDArray[np.bool_] | None = None
    vectors: NDArray[np.float32] | None = None
    notes: Mapping[str, str] = field(default_factory=dict)

    def joined(self, other: "Answers") -> "Answers":
        """Return what two meters found."""
        return Answers(
            scores={**self.scores, **other.scores},
            compared=(*self.compared, *other.compared),
            classes=other.classes if self.classes is None else self.classes,
            right=other.right if self.right is None else self.right,
            vectors=other.vectors if self.vectors is None else self.vectors,
            notes={**self.notes, **other.notes},
        )


def scored(scores: Mapping[str, float]) -> Answers:
    """Return scores; one that is no number is absent, with a note."""
    broken = [name for name, value in scores.items() if not math.isfinite(value)]
    found = {name: None if name in broken else value for name, value in scores.items()}
    return Answers(found, notes=dict.fromkeys(broken, _NO_NUMBER))
