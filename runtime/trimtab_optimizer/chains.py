"""Passes that follow each other on one reading of the weights: edits, a conversion, and the quantization at the end.

What clip and prune do to a weight is found when quantize asks for its first value, tensor by tensor: so a model that no
memory holds is read from the disk once for all of them, and what lies in between is not written. It is described: the
weights of the model before, and a file of edits. So each pass has a result of its own, for a plan that goes on from it.

Only where nothing is to be measured in between: models too large to be held, without evaluation data.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import onnx

from trimtab_api.spec import ModelFormat, OptimizationPass, Target
from trimtab_optimizer.importers.empty import is_large
from trimtab_optimizer.importers.pytorch import mark_pruned
from trimtab_optimizer.package import Model, Waiting, share_package, write_waiting
from trimtab_optimizer.passes import PASSES
from trimtab_optimizer.passes.contract import Editing, Outcome, Workplace
from trimtab_optimizer.passes.reweighing import settled, with_dense_weights
from trimtab_optimizer.passes.static_int8 import is_large_graph
from trimtab_optimizer.streaming.edits import Choice, Find, Found, Remember, edited
from trimtab_optimizer.streaming.graphs import opset_of
from trimtab_optimizer.streaming.journal import Journal
from trimtab_optimizer.streaming.magnitudes import count_kept
from trimtab_optimizer.streaming.reweigh import Reweighed, chosen_weights, graph_weights, stored_matrices
from trimtab_optimizer.streaming.sparse import OPSET, is_worth_it, packed_bytes
from trimtab_optimizer.streaming.weights import Weight

_READ_AT_ONCE: Final = (None, "dynamic", "weights")  # modes of quantize that need no other look at the weights


def chain_of(items: Sequence[OptimizationPass], model: Model, seed: int) -> Sequence[OptimizationPass]:
    """Return the passes at the beginning of some that read the weights of a large model together; often none."""
    if not (is_large(model) or is_large_graph(model)):
        return ()
    count, edits, form = 0, bool(model.waiting), model.package.format
    for item in items:
        if PASSES[item.kind].edits(item, seed):
            edits = True
        elif _reads_edits(item) and form is ModelFormat.ONNX:
            return items[: count + 1] if edits else ()
        elif _converts(item) and form is not ModelFormat.ONNX:
            form = ModelFormat.ONNX
        else:
            break
        count += 1
    return items[:count] if edits and (model.waiting or count > 1) else ()


def run_chain(items: Sequence[OptimizationPass], model: Model, works: Sequence[Workplace]) -> list[Outcome]:
    """Return the outcomes of passes that read the weights together; `works` are their places. Raises as they do."""
    journal = _journal(works[-1])
    if model.package.format is ModelFormat.ONNX and not model.waiting:
        model = with_dense_weights(model, works[0].scratch)
    links: list[_Link] = []
    for item, work in zip(items, _places(items, works), strict=True):
        remember = partial(_remember, journal, len(links))
        links.append(_link(item, model, work, remember))
        model = links[-1].model
    if model.waiting:
        links[-1] = replace(links[-1], model=settled(model, works[-1]))
    outcomes = [link.outcome() for link in links]
    journal.forget()
    read_with = {"readWith": items[-1].kind}
    return [replace(item, notes=item.notes | read_with) if item.model.waiting else item for item in outcomes]


@dataclass(frozen=True, slots=True)
class _Link:
    """A pass of a chain. `changed` are the weights that it edits, as they are afterwards."""

    model: Model
    remember: Remember
    notes: dict[str, object] = field(default_factory=dict)
    editing: Editing | None = None
    changed: tuple[Weight, ...] = ()
    packs: bool = False

    def outcome(self) -> Outcome:
        """Return the result of the pass, once all weights were read."""
        pruned = self.changed if self.editing and self.editing.prunes else ()
        kept = {weight.name: _count(weight, self.remember) for weight in pruned}
        sparse = [weight for weight in pruned if self.packs and is_worth_it(weight, kept[weight.name])]
        notes = self.notes
        if self.editing:
            names = tuple(weight.name for weight in self.changed)
            values = sum(weight.count for weight in self.changed)
            zeros = sum(weight.count - kept[weight.name] for weight in pruned)
            done = Reweighed(names, values, zeros, tuple(sorted(weight.name for weight in sparse)))
            notes = self.editing.notes(done, self.model.package.format)
        if self.model.waiting is None:
            return Outcome(self.model, notes)
        saved = sum(weight.size_bytes - packed_bytes(weight, kept[weight.name]) for weight in sparse)
        size = replace(self.model, waiting=None).size_bytes() - saved
        waiting = Waiting(self.model.waiting.edits, size)
        return Outcome(write_waiting(self.model.folder, self.model.package, waiting), notes)


def _link(item: OptimizationPass, model: Model, work: Workplace, remember: Remember) -> _Link:
    editing = PASSES[item.kind].edits(item, work.seed)
    if editing is None:
        outcome = PASSES[item.kind].run(item, model, work)
        return _Link(outcome.model, remember, outcome.notes)
    form = model.package.format
    before = model.waiting.edits if model.waiting else {}
    weights = [replace(weight, edits=before.get(weight.name, ())) for weight in _weights(model)]
    choose = _counting(editing.choose) if editing.prunes else editing.choose
    changed = edited(chosen_weights(weights, editing.ignored), choose, remember)
    made = share_package(model, work.target)
    if editing.prunes and form is not ModelFormat.ONNX:
        made = mark_pruned(made, tuple(weight.name for weight in changed))
    edits = {**before, **{weight.name: weight.edits for weight in changed}}
    packs = form is ModelFormat.ONNX and opset_of(onnx.load(model.weights, load_external_data=False)) >= OPSET
    waiting = Waiting(edits, model.size_bytes())
    return _Link(replace(made, waiting=waiting), remember, {}, editing, tuple(changed), packs)


def _weights(model: Model) -> list[Weight]:
    if model.package.format is not ModelFormat.ONNX:
        return stored_matrices(model.weights)
    return graph_weights(onnx.load(model.weights, load_external_data=False).graph, model.folder)


def _counting(choose: Choice) -> Choice:
    """Let values that are not zero be counted as soon as an edit is found: then its weight was just read."""

    def counting(weights: Sequence[Weight], remember: Remember) -> Find:
        find = choose(weights, remember)

        def found(weight: Weight) -> Found:
            edit = find(weight)
            _count(replace(weight, edits=(*weight.edits, edit)), remember)
            return edit

        return found

    return counting


def _count(weight: Weight, remember: Remember) -> int:
    """Return how many values of a weight are not zero."""
    return remember(f"kept of {weight.name}", partial(count_kept, weight))


def _places(items: Sequence[OptimizationPass], works: Sequence[Workplace]) -> list[Workplace]:
    """Return the places of passes; one after which weights still wait has its result written by `settled`."""
    last = works[-1]
    aside = last if _reads_edits(items[-1]) else replace(last, target=last.scratch / "waiting")
    return [*works[:-1], aside]


def _journal(work: Workplace) -> Journal:
    """Return a journal of what is found, beside the folder of what is written."""
    if work.unfinished is None:
        return Journal(work.target, None)
    work.unfinished.parent.mkdir(parents=True, exist_ok=True)
    return Journal(work.unfinished, work.unfinished.name)


def _remember(journal: Journal, number: int, name: str, find: Callable[[], int]) -> int:
    return journal.remember(f"{number} {name}", find)


def _converts(item: OptimizationPass) -> bool:
    return bool(item.convert and item.convert.to is Target.ONNX)


def _reads_edits(item: OptimizationPass) -> bool:
    return bool(item.quantize and item.quantize.mode in _READ_AT_ONCE)
