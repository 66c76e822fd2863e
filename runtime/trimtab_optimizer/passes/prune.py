"""prune: take out what counts least.

| structure    | what goes                              | what for                                             |
|--------------|----------------------------------------|------------------------------------------------------|
| structured   | channels, and heads of attention       | a smaller and faster model, in every runtime         |
| unstructured | single weights, which become zero      | a smaller file, as zeros are stored in a bit; no speed |

Structured pruning, and fine-tuning, work on the PyTorch module; weights alone are also taken out of an ONNX graph.
"""

import shutil

import torch
from torch import nn

from trimtab_api.contract import canonical_json
from trimtab_api.errors import PassFailed
from trimtab_api.package import ONNX_FILE, STRUCTURE_FILE, WEIGHTS_FILE
from trimtab_api.spec import ModelFormat, OptimizationPass, Prune
from trimtab_optimizer.importers.pytorch import load_module, save_module, structure_of
from trimtab_optimizer.package import Model, write_package
from trimtab_optimizer.passes.contract import Outcome, Workplace
from trimtab_optimizer.pruning.structured import cut_channels
from trimtab_optimizer.streaming.edits import zero_smallest
from trimtab_optimizer.streaming.magnitudes import by_chance, by_magnitude
from trimtab_optimizer.streaming.reweigh import Choice, Reweighed, reweigh_onnx, reweigh_safetensors
from trimtab_optimizer.tensors import example_inputs
from trimtab_optimizer.training.finetune import fine_tune
from trimtab_optimizer.training.loop import History
from trimtab_optimizer.training.masks import Masks, masks_of

_EXAMPLE_ROWS = 2


def prune(item: OptimizationPass, model: Model, work: Workplace) -> Outcome:
    """Return the model without what counted least. Raises PassFailed where nothing can go, or for unknown layers."""
    options = item.prune
    assert options
    if not 0 < options.amount < 1:
        raise PassFailed(f"prune: amount is {options.amount:g}; it is the part that goes, between 0 and 1")
    if model.package.format is not ModelFormat.PYTORCH and options.trains:
        raise PassFailed(
            "prune: channels go out of a PyTorch module, and the model is ONNX; use structure: unstructured"
        )
    return (
        _structured(options, model, work) if options.structure == "structured" else _unstructured(options, model, work)
    )


def _structured(options: Prune, model: Model, work: Workplace) -> Outcome:
    module = load_module(model, work.allow_pickle)
    sparse = structure_of(model).sparse
    histories: list[History] = []

    def between(pruned: nn.Module) -> None:
        if options.fine_tune:
            histories.append(_fine_tune(options, pruned, model, work, masks_of(pruned, sparse)))

    inputs = tuple(torch.from_numpy(v) for v in example_inputs(model.package.inputs, _EXAMPLE_ROWS, work.seed).values())
    cut = cut_channels(module, inputs, model.package, options, between)
    made = save_module(model, module, sparse, work.target)
    notes = {
        "gain": "speed",
        "parametersBefore": cut.parameters_before,
        "parameters": cut.parameters,
        "leftAlone": cut.left,
        "heads": cut.heads,
        "losses": [history.losses for history in histories],
    }
    return Outcome(made, notes)


def _fine_tune(options: Prune, module: nn.Module, model: Model, work: Workplace, masks: Masks) -> History:
    assert options.fine_tune
    assert work.data
    return fine_tune(module, model.package, work.data, options.fine_tune, masks, work.seed, work.scratch)


def _unstructured(options: Prune, model: Model, work: Workplace) -> Outcome:
    if model.package.format is ModelFormat.ONNX:
        work.target.mkdir(parents=True)
        done = reweigh_onnx(
            model.weights, work.target / ONNX_FILE, work.scratch, _choice(options, work.seed), options.ignored_layers
        )
        return Outcome(write_package(work.target, model.package), _notes(done) | {"gain": "storage"})
    return _zeroed_module(options, model, work)


def _zeroed_module(options: Prune, model: Model, work: Workplace) -> Outcome:
    """Zero weights of a PyTorch package, and note which, so that training leaves them at zero."""
    _check_safetensors(model)
    shutil.copytree(model.folder, work.target)
    target = work.target / (model.package.weights or WEIGHTS_FILE)
    done = reweigh_safetensors(model.weights, target, _choice(options, work.seed), options.ignored_layers)
    structure = structure_of(model)
    marked = structure.model_copy(update={"sparse": tuple(sorted({*structure.sparse, *done.weights}))})
    (work.target / STRUCTURE_FILE).write_text(canonical_json(marked.to_dict()), encoding="utf-8")
    made = write_package(work.target, model.package.model_copy(update={"structure": STRUCTURE_FILE}))
    if not options.fine_tune:
        return Outcome(made, _notes(done))
    module = load_module(made, work.allow_pickle)
    history = _fine_tune(options, module, made, work, masks_of(module, marked.sparse))
    shutil.move(work.target, work.scratch / "zeroed")
    zeroed = Model(work.scratch / "zeroed", made.package)
    return Outcome(save_module(zeroed, module, marked.sparse, work.target), _notes(done) | {"losses": history.losses})


def _check_safetensors(model: Model) -> None:
    if model.weights.suffix != ".safetensors":
        raise PassFailed(
            f"prune reads weights in safetensors, not {model.weights.name}; save them again, or convert first"
        )


def _choice(options: Prune, seed: int) -> Choice:
    scoring = by_chance(seed) if options.method == "random" else by_magnitude
    return lambda weights: zero_smallest(weights, scoring, options.amount, options.scope == "global")


def _notes(done: Reweighed) -> dict[str, object]:
    return {"weights": len(done.weights), "values": done.values, "zeros": done.zeros, "sparse": list(done.sparse)}
