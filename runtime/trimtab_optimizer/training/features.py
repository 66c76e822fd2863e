"""Listen to layers of student and teacher, by name."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from trimtab_api.errors import PassFailed
from trimtab_api.spec import FeatureMatch
from trimtab_optimizer.training.losses import FeatureLoss


class Features(nn.Module):
    """The feature part of a loss. Its parameters are the maps between widths, which are trained and thrown away."""

    def __init__(
        self, matches: Sequence[FeatureMatch], student: nn.Module, teacher: nn.Module, example: Sequence[torch.Tensor]
    ) -> None:
        super().__init__()
        self._listening = [(_Listener(student, m.student), _Listener(teacher, m.teacher)) for m in matches]
        with torch.inference_mode():
            student(*example)
            teacher(*example)
        shapes = [(mine.heard().shape, other.heard().shape) for mine, other in self._listening]
        pairs = zip(matches, shapes, strict=True)
        self._losses = [FeatureLoss(m.match, m.weight, _projection(m, *found)) for m, found in pairs]
        self.projections = nn.ModuleList(loss.projection for loss in self._losses)
        self._teacher = [teacher]  # in a list, so that it is none of the modules that are trained

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the distance over all pairs of layers, for the rows that the student was given last."""
        with torch.no_grad():
            self._teacher[0](*inputs)
        pairs = zip(self._losses, self._listening, strict=True)
        return torch.stack([loss(mine.heard(), other.heard()) for loss, (mine, other) in pairs]).sum()


class _Listener:
    def __init__(self, module: nn.Module, name: str) -> None:
        known = dict(module.named_modules())
        if name not in known:
            listed = ", ".join(key for key in list(known)[:20] if key)
            raise PassFailed(f"distill: there is no layer `{name}` to compare; there are: {listed}")
        self._name, self._found = name, torch.empty(0)
        known[name].register_forward_hook(self._hear)

    def _hear(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._found = output[0] if isinstance(output, tuple) else output

    def heard(self) -> torch.Tensor:
        if not self._found.numel():
            raise PassFailed(f"distill: layer `{self._name}` takes no part in what the model computes")
        return self._found


def _projection(match: FeatureMatch, student: torch.Size, teacher: torch.Size) -> nn.Module:
    """Return what brings the student's width to the teacher's. Raises PassFailed where more than the width differs."""
    if match.match == "attention":
        _check_positions(match, student, teacher)
    if match.match == "attention" or student == teacher:
        return nn.Identity()
    if len(student) == 4 and student[2:] == teacher[2:]:
        return nn.Conv2d(student[1], teacher[1], 1, bias=False)
    if len(student) == len(teacher) < 4 and student[:-1] == teacher[:-1]:
        return nn.Linear(student[-1], teacher[-1], bias=False)
    raise _unlike(match, student, teacher, "differ in their width alone, or match: attention")


def _check_positions(match: FeatureMatch, student: torch.Size, teacher: torch.Size) -> None:
    if not (len(student) == len(teacher) > 2 and _positions(student) == _positions(teacher)):
        mend = "have the same positions, [rows, channels, ...] or [rows, tokens, width]"
        raise _unlike(match, student, teacher, mend)


def _positions(shape: torch.Size) -> tuple[int, ...]:
    """Return the axes that say where, not what: tokens of [rows, tokens, width], else all beyond the channels."""
    return tuple(shape[1:2]) if len(shape) == 3 else tuple(shape[2:])


def _unlike(match: FeatureMatch, student: torch.Size, teacher: torch.Size, mend: str) -> PassFailed:
    gives = f"layer `{match.student}` gives {list(student)}, `{match.teacher}` of the teacher {list(teacher)}"
    return PassFailed(f"distill: {gives}; choose layers that {mend}")
