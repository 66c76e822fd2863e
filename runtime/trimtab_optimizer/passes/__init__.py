"""The passes and where they may stand. A new pass is one file, one test and one row of PASSES."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from trimtab_api.errors import PassFailed
from trimtab_api.plan import Plan
from trimtab_api.spec import OptimizationPass
from trimtab_optimizer.package import Model, Stage, stage_of
from trimtab_optimizer.passes.clip import clip
from trimtab_optimizer.passes.contract import Outcome, Workplace
from trimtab_optimizer.passes.convert import convert
from trimtab_optimizer.passes.distill import distill
from trimtab_optimizer.passes.prune import prune
from trimtab_optimizer.passes.quantize import quantize


@dataclass(frozen=True, slots=True)
class Pass:
    """`run` makes a new model folder from a model at one of the stages in `takes`.

    The result stands at `gives`; None stands for the stage that the model had. `memory` is what it holds at most, as a
    multiple of the weights; 0 where it goes through them piece by piece.
    """

    run: Callable[[OptimizationPass, Model, Workplace], Outcome]
    takes: frozenset[Stage]
    gives: Stage | None
    memory: Callable[[OptimizationPass], float] = lambda item: 0.0


# Multiples of the weights that were measured; memory.py says how.
_TRAINING: Final = 7.1
_PRUNING: Final = 3.0
_EXPORT: Final = 4.2
_CALIBRATION: Final = 5.4


def _of_pruning(item: OptimizationPass) -> float:
    if not item.prune or not item.prune.trains:
        return 0.0
    return _TRAINING if item.prune.fine_tune else _PRUNING


def _of_quantization(item: OptimizationPass) -> float:
    return _CALIBRATION if item.quantize and item.quantize.mode in ("static", "auto") else 0.0


_MODULES: Final = frozenset({Stage.PYTORCH, Stage.PROGRAM})
_WEIGHTS: Final = _MODULES | {Stage.ONNX}

PASSES: Final[Mapping[str, Pass]] = MappingProxyType(
    {
        "prune": Pass(prune, _WEIGHTS, None, _of_pruning),
        "clip": Pass(clip, _WEIGHTS, None),
        "distill": Pass(distill, _WEIGHTS, None, lambda item: _TRAINING),
        "convert": Pass(convert, _WEIGHTS, Stage.ONNX, lambda item: _EXPORT),
        "quantize": Pass(quantize, frozenset({Stage.ONNX}), Stage.QUANTIZED, _of_quantization),
    }
)


def check_order(plan: Plan) -> None:
    """Refuse a plan whose passes cannot follow each other, before any of them runs. Raises PassFailed."""
    stage, before = stage_of(plan.source.format), f"a {plan.source.format} source"
    for number, item in enumerate(plan.passes, start=1):
        step = PASSES.get(item.kind)
        if step is None:
            raise PassFailed(f"pass {number}: there is no pass `{item.kind}`; known: {', '.join(PASSES)}")
        if stage is Stage.PROGRAM:
            _refuse_for_programs(number, item)
        takes = _takes(item, step)
        if stage not in takes:
            needs = " or ".join(sorted(takes))
            raise PassFailed(
                f"pass {number} ({item.kind}) cannot follow {before}: it needs a model in {needs}, not {stage}; "
                "change the order of the passes or leave one out"
            )
        stage, before = _gives(item, step, stage), f"pass {number} ({item.kind})"
    if stage in _MODULES:
        raise PassFailed(f"the plan ends with {before}, which cannot be served; add the pass `convert: {{to: onnx}}`")


def _takes(item: OptimizationPass, step: Pass) -> frozenset[Stage]:
    """Return the stages that a pass can start from, as it is asked for: what is trained has to be a module."""
    if not item.needs_module or _student(item):
        return step.takes
    return frozenset({Stage.PYTORCH}) if _is_structured(item) else _MODULES


def _gives(item: OptimizationPass, step: Pass, stage: Stage) -> Stage:
    """Return where the model stands after a pass; a student of its own is a module, whatever there was before."""
    return Stage.PYTORCH if _student(item) else step.gives or stage


def _is_structured(item: OptimizationPass) -> bool:
    return bool(item.prune and item.prune.structure == "structured")


def _student(item: OptimizationPass) -> bool:
    return bool(item.distill and item.distill.student)


def _refuse_for_programs(number: int, item: OptimizationPass) -> None:
    """Raise PassFailed for what needs the layers of a module: a program has their weights, but not their kinds."""
    if _is_structured(item):
        raise _needs_layers(number, "prune: channels", "use structure: unstructured")
    if item.distill and item.distill.features and not (item.distill.student and item.distill.teacher):
        raise _needs_layers(number, "distill: features", "leave features out")
    if item.distill and item.distill.quantization and not _student(item):
        raise _needs_layers(number, "distill: quantization", "leave quantization out, or name a student package")


def _needs_layers(number: int, what: str, mend: str) -> PassFailed:
    why = "are found by the layers of a module, which an exported program no longer has"
    return PassFailed(f"pass {number}, {what} {why}; {mend}, or give the model as a PyTorch package")
