"""The passes and where they may stand. A new pass is one file, one test and one row of PASSES."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from trimtab_api.errors import PassFailed
from trimtab_api.plan import Plan
from trimtab_api.spec import ModelFormat, OptimizationPass, Target
from trimtab_optimizer.importers.empty import is_large
from trimtab_optimizer.memory import TENSORFLOW
from trimtab_optimizer.package import Model, Stage, stage_of
from trimtab_optimizer.passes.clip import clip, clipping
from trimtab_optimizer.passes.contract import Editing, Outcome, Workplace
from trimtab_optimizer.passes.convert import convert
from trimtab_optimizer.passes.distill import distill
from trimtab_optimizer.passes.prune import prune, zeroing
from trimtab_optimizer.passes.quantize import mode_of, quantize
from trimtab_optimizer.passes.quantize_litert import why_not_on_litert
from trimtab_optimizer.passes.static_int8 import is_large_graph


@dataclass(frozen=True, slots=True)
class Pass:
    """`run` makes a new model folder from a model at one of the stages in `takes`.

    `gives` tells the stage of the result by the pass and the stage before. `memory` is what it holds at most, as a
    multiple of the weights; 0 where it goes through them piece by piece. `beside` is what a process of its own takes
    however small the model is. `refuses` says why a pass cannot work on a stage in the way that it is asked for.
    `edits` tells what it does to weights, given the seed of the plan, where it does nothing else.
    """

    run: Callable[[OptimizationPass, Model, Workplace], Outcome]
    takes: frozenset[Stage]
    gives: Callable[[OptimizationPass, Stage], Stage]
    memory: Callable[[OptimizationPass, Model], float] = lambda item, model: 0.0
    refuses: Callable[[OptimizationPass, Stage], str | None] = lambda item, stage: None
    beside: Callable[[OptimizationPass], int] = lambda item: 0
    edits: Callable[[OptimizationPass, int], Editing | None] = lambda item, seed: None


# Multiples of the weights that were measured; memory.py says how.
_TRAINING: Final = 7.1
_PRUNING: Final = 3.0
_EXPORT: Final = 4.2
_CALIBRATION: Final = 5.4
_LITERT: Final = 15.0
_GENAI: Final = 2.0


def _of_pruning(item: OptimizationPass, model: Model) -> float:
    if not item.prune or not item.prune.trains:
        return 0.0
    if item.prune.fine_tune:
        return _TRAINING
    return 0.0 if is_large(model) else _PRUNING


def _of_quantization(item: OptimizationPass, model: Model) -> float:
    mode = item.quantize.mode if item.quantize else None
    holds = mode == "auto" or (mode == "static" and not is_large_graph(model))
    return _CALIBRATION if holds else 0.0


def _of_conversion(item: OptimizationPass, model: Model) -> float:
    if item.convert and item.convert.to.needs_tensorflow:
        return _LITERT
    if item.convert and item.convert.to is Target.GENAI:
        return _GENAI
    return 0.0 if is_large(model) else _EXPORT


def _beside_conversion(item: OptimizationPass) -> int:
    return TENSORFLOW if item.convert and item.convert.to.needs_tensorflow else 0


def _as_before(item: OptimizationPass, stage: Stage) -> Stage:
    return stage


def _converted(item: OptimizationPass, stage: Stage) -> Stage:
    return Stage(item.convert.to) if item.convert else Stage.ONNX


def _quantized(item: OptimizationPass, stage: Stage) -> Stage:
    return {Stage.LITERT: Stage.QUANTIZED_LITERT, Stage.GENAI: Stage.QUANTIZED_GENAI}.get(stage, Stage.QUANTIZED)


def _distilled(item: OptimizationPass, stage: Stage) -> Stage:
    """Return where a student stands: one of its own is a module, whatever there was before."""
    return Stage.PYTORCH if _student(item) else stage


def _refuse_quantization(item: OptimizationPass, stage: Stage) -> str | None:
    if item.quantize and stage is Stage.GENAI and mode_of(item.quantize) != "weights":
        return "weights of a decoder can be stored in fewer bits (mode: weights), and nothing else of it"
    return why_not_on_litert(item.quantize) if item.quantize and stage is Stage.LITERT else None


def _refuse_pruning(item: OptimizationPass, stage: Stage) -> str | None:
    """Say why a program cannot be pruned: it has weights, but not the kinds of its layers."""
    if stage is not Stage.PROGRAM or not _is_structured(item):
        return None
    return _needs_layers("channels", "use structure: unstructured")


def _refuse_distillation(item: OptimizationPass, stage: Stage) -> str | None:
    """Say why a program cannot be trained in a way that looks into layers."""
    wanted = item.distill
    if stage is not Stage.PROGRAM or not wanted:
        return None
    if wanted.features and not (wanted.student and wanted.teacher):
        return _needs_layers("features", "leave features out")
    if wanted.quantization and not wanted.student:
        return _needs_layers("what is rounded", "leave quantization out, or name a student package")
    return None


def _needs_layers(what: str, mend: str) -> str:
    why = "are found by the layers of a module, which an exported program no longer has"
    return f"{what} {why}; {mend}, or give the model as a PyTorch package"


def _is_structured(item: OptimizationPass) -> bool:
    return bool(item.prune and item.prune.structure == "structured")


def _student(item: OptimizationPass) -> bool:
    return bool(item.distill and item.distill.student)


_MODULES: Final = frozenset({Stage.PYTORCH, Stage.PROGRAM})
_WEIGHTS: Final = _MODULES | {Stage.ONNX}
_GRAPHS: Final = frozenset({Stage.ONNX, Stage.LITERT, Stage.GENAI})
_CONVERTED: Final = _WEIGHTS | {Stage.GENAI}

PASSES: Final[Mapping[str, Pass]] = MappingProxyType(
    {
        "prune": Pass(prune, _WEIGHTS, _as_before, _of_pruning, _refuse_pruning, edits=zeroing),
        "clip": Pass(clip, _WEIGHTS, _as_before, edits=clipping),
        "distill": Pass(distill, _WEIGHTS, _distilled, lambda item, model: _TRAINING, _refuse_distillation),
        "convert": Pass(convert, _CONVERTED, _converted, _of_conversion, beside=_beside_conversion),
        "quantize": Pass(quantize, _GRAPHS, _quantized, _of_quantization, _refuse_quantization),
    }
)


def check_order(plan: Plan) -> None:
    """Refuse a plan whose passes cannot follow each other, before any of them runs. Raises PassFailed."""
    if plan.source.format is ModelFormat.COLLECTION and plan.evaluation_data:
        raise PassFailed(
            "the models of a collection have no common data; remove evaluation, and measure each by itself"
        )
    stage, before = stage_of(plan.source.format), f"a {plan.source.format} source"
    for number, item in enumerate(plan.passes, start=1):
        step = PASSES.get(item.kind)
        if step is None:
            raise PassFailed(f"pass {number}: there is no pass `{item.kind}`; known: {', '.join(PASSES)}")
        _check_step(f"pass {number} ({item.kind})", item, step, stage, before)
        stage, before = step.gives(item, stage), f"pass {number} ({item.kind})"
    if stage in _MODULES and not plan.for_engine:
        raise PassFailed(f"the plan ends with {before}, which cannot be served; add the pass `convert: {{to: onnx}}`")


def _check_step(name: str, item: OptimizationPass, step: Pass, stage: Stage, before: str) -> None:
    reason = step.refuses(item, stage)
    if reason:
        raise PassFailed(f"{name} cannot follow {before}: {reason}")
    takes = _takes(item, step)
    if stage not in takes:
        needs = " or ".join(sorted(takes))
        raise PassFailed(
            f"{name} cannot follow {before}: it needs a model in {needs}, not {stage}; "
            "change the order of the passes or leave one out"
        )


def _takes(item: OptimizationPass, step: Pass) -> frozenset[Stage]:
    """Return the stages that a pass can start from, as it is asked for: what is trained has to be a module."""
    if not item.needs_module or _student(item):
        return step.takes
    return frozenset({Stage.PYTORCH}) if _is_structured(item) else _MODULES
