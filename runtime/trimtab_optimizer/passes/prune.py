"""prune: take out what counts least.

| structure    | what goes                              | what for                                             |
|--------------|----------------------------------------|------------------------------------------------------|
| structured   | channels, and heads of attention       | a smaller and faster model, in every runtime         |
| unstructured | single weights, which become zero      | a smaller file, as zeros are stored in a bit; no speed |

Structured pruning, and fine-tuning, work on the PyTorch module; weights alone are also taken out of an ONNX graph.
"""

import shutil
from functools import partial

from torch import fx, nn

from trimtab_api.errors import PassFailed
from trimtab_api.spec import ModelFormat, OptimizationPass, Prune
from trimtab_optimizer.importers.empty import is_large
from trimtab_optimizer.importers.pytorch import load_module, save_module, structure_of
from trimtab_optimizer.package import Model
from trimtab_optimizer.passes.contract import Checkpoints, Editing, Outcome, Workplace
from trimtab_optimizer.passes.reweighing import reweigh
from trimtab_optimizer.pruning.streamed import cut_stored_channels
from trimtab_optimizer.pruning.structured import Cut, cut_channels, importance_of, rows_to_trace
from trimtab_optimizer.streaming.edits import by_chance, by_magnitude, zero_smallest
from trimtab_optimizer.streaming.reweigh import Reweighed
from trimtab_optimizer.training.finetune import fine_tune
from trimtab_optimizer.training.loop import History
from trimtab_optimizer.training.masks import Masks, masks_of
from trimtab_optimizer.training.rounds import Rounds


def prune(item: OptimizationPass, model: Model, work: Workplace) -> Outcome:
    """Return the model without what counted least. Raises PassFailed where nothing can go, or for unknown layers."""
    options = _options(item)
    if model.package.format is not ModelFormat.PYTORCH and options.trains:
        raise PassFailed(
            "prune: channels go out of a PyTorch module, and the model is ONNX; use structure: unstructured"
        )
    return _structured(options, model, work) if options.structure == "structured" else _unstructured(item, model, work)


def zeroing(item: OptimizationPass, seed: int) -> Editing | None:
    """Return what prune does to single weights, where it does nothing else. Raises PassFailed for a wrong amount."""
    options = _options(item)
    return None if options.trains else _zeroing(options, seed)


def _options(item: OptimizationPass) -> Prune:
    assert item.prune
    if not 0 < item.prune.amount < 1:
        raise PassFailed(f"prune: amount is {item.prune.amount:g}; it is the part that goes, between 0 and 1")
    return item.prune


def _structured(options: Prune, model: Model, work: Workplace) -> Outcome:
    histories: list[History] = []
    streams = is_large(model) and not options.fine_tune
    made, cut = cut_stored_channels(options, model, work) if streams else _held(options, model, work, histories)
    notes = {
        "gain": "speed",
        "parametersBefore": cut.parameters_before,
        "parameters": cut.parameters,
        "leftAlone": cut.left,
        "heads": cut.heads,
        "losses": [history.losses for history in histories],
    }
    return Outcome(made, notes)


def _held(options: Prune, model: Model, work: Workplace, histories: list[History]) -> tuple[Model, Cut]:
    """Cut a module that is held in memory, fine-tune it where that is asked for, and write it."""
    module = load_module(model, work.allow_pickle)
    if isinstance(module, fx.GraphModule):
        raise PassFailed("prune: an exported program has no layers to take channels from; use structure: unstructured")
    sparse = structure_of(model).sparse
    rounds = Rounds(work.checkpoints, work.scratch) if options.fine_tune else None

    def between(pruned: nn.Module) -> None:
        if rounds:
            tune = partial(_fine_tune, options, pruned, model, work, masks_of(pruned, sparse))
            histories.append(rounds.train(pruned, tune))

    inputs = rows_to_trace(model.package, work.seed)
    cut = cut_channels(module, inputs, model.package, options, importance_of(options.method, work.seed), between)
    return save_module(model, module, sparse, work.target), cut


def _fine_tune(
    options: Prune, module: nn.Module, model: Model, work: Workplace, masks: Masks, checkpoints: Checkpoints
) -> History:
    assert options.fine_tune
    assert work.data
    return fine_tune(module, model.package, work.data, options.fine_tune, masks, work.seed, checkpoints, work.scratch)


def _unstructured(item: OptimizationPass, model: Model, work: Workplace) -> Outcome:
    options = _options(item)
    outcome = reweigh("prune", model, work, _zeroing(options, work.seed))
    if not options.fine_tune:
        return outcome
    tuned, history = _tuned(options, outcome.model, work)
    return Outcome(tuned, outcome.notes | {"losses": history.losses})


def _tuned(options: Prune, marked: Model, work: Workplace) -> tuple[Model, History]:
    """Fine-tune a pruned package, and write it in its own place."""
    module, sparse = load_module(marked, work.allow_pickle), structure_of(marked).sparse
    history = _fine_tune(options, module, marked, work, masks_of(module, sparse), work.checkpoints)
    base = Model(work.scratch / "zeroed", marked.package)
    shutil.move(marked.folder, base.folder)
    return save_module(base, module, sparse, work.target), history


def _zeroing(options: Prune, seed: int) -> Editing:
    scoring = partial(by_chance, seed) if options.method == "random" else by_magnitude
    choose = zero_smallest(scoring, options.amount, options.scope == "global")
    return Editing(choose, options.ignored_layers, _notes, prunes=True)


def _notes(done: Reweighed, form: ModelFormat) -> dict[str, object]:
    notes = {"weights": len(done.weights), "values": done.values, "zeros": done.zeros, "sparse": list(done.sparse)}
    return notes | ({"gain": "storage"} if form is ModelFormat.ONNX else {})
