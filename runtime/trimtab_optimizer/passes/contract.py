"""What a pass is given and what it answers."""

from dataclasses import dataclass, field
from pathlib import Path

from trimtab_optimizer.data import Dataset
from trimtab_optimizer.package import Model


@dataclass(frozen=True, slots=True)
class Workplace:
    """`target` is a folder to make, `scratch` one that is thrown away; data is there where the plan names it."""

    target: Path
    scratch: Path
    seed: int
    allow_pickle: bool
    calibration: Dataset | None = None
    evaluation: Dataset | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The new model, with notes for the report."""

    model: Model
    notes: dict[str, object] = field(default_factory=dict)
