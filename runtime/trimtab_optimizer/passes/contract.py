"""What a pass is given and what it answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from trimtab_api.spec import ModelFormat
from trimtab_optimizer.data import Dataset
from trimtab_optimizer.package import Model
from trimtab_optimizer.streaming.edits import Choice
from trimtab_optimizer.streaming.reweigh import Reweighed


class Checkpoints(Protocol):
    """Where a long pass leaves its state, so that a Job that was killed goes on from there."""

    def load(self) -> Path | None:
        """Return the file that was saved last, or None where nothing was or it cannot be used."""

    def save(self, file: Path) -> None:
        """Keep a file; the ones before may go."""


@dataclass(frozen=True, slots=True)
class Workplace:
    """`target` is a folder to make, `scratch` one that is thrown away; data is there where the plan names it.

    `source` is the model before all passes, `packages` are those that the plan names beside it, by URI. `unfinished` is
    a folder of this very pass that outlives the process, for work that goes on after a kill.
    """

    target: Path
    scratch: Path
    seed: int
    allow_pickle: bool
    source: Model
    checkpoints: Checkpoints
    packages: Mapping[str, Model] = field(default_factory=dict)
    data: Dataset | None = None
    evaluation: Dataset | None = None
    unfinished: Path | None = None


@dataclass(frozen=True, slots=True)
class Editing:
    """What a pass does that does nothing but to put other values in the place of weights.

    `notes` makes those for the report. `prunes` tells that a module has to know which of its weights these are, so that
    training leaves their zeros at zero.
    """

    choose: Choice
    ignored: tuple[str, ...]
    notes: Callable[[Reweighed, ModelFormat], dict[str, object]]
    prunes: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """The new model, with notes for the report."""

    model: Model
    notes: dict[str, object] = field(default_factory=dict)
