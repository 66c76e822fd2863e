"""Passes that follow each other on one reading of the weights: edits, a conversion, and the quantization at the end.

What clip and prune do to a weight is found when quantize asks for its first value, tensor by tensor: so a model that no
memory holds is read from the disk once for all of them, and what lies in between is not written. It is described: the
weights of the model before, and a file of edits. So each pass has a result of its own, for a plan that goes on from it.

Only where nothing is to be measured in between: models too large to be held, without evaluation data.
"""

from collections.abc import Callable, Mapping, Sequence
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
from trimtab_optimizer.streaming.edits import Choice, Find, Found, Remember, edited, find_anew
from trimtab_optimizer.streaming.graphs import opset_of
from trimtab_optimizer.streaming.journal import Journal
from trimtab_optimizer.streaming.reweigh import chosen_weights, graph_weights, kept_of, reweighed, stored_matrices
from trimtab_optimizer.streaming.sparse import OPSET, is_worth_it, kept_in, packed_bytes, packed_in
from trimtab_optimizer.streaming.weights import Weight

_READ_AT_ONCE: Final = (None, "dynamic", "weights")  # modes of quantize that need no other look at the weights


def chain_of(items: Sequence[OptimizationPass], model: Model, seed: int) -> Sequence[OptimizationPass]:
    """Return the passes at the beginning of some that read the weights of a large model together; often none."""
    count = _length(items, model, seed)
    return items[:count] if count and (is_large(model) or is_large_graph(model)) else ()


def _length(items: Sequence[OptimizationPass], model: Model, seed: int) -> int:
    """Return how many passes could read the weights together, were the model large: to see that, it has to be read."""
    count, edits, form = 0, bool(model.waiting), model.package.format
    for item in items:
        if PASSES[item.kind].edits(item, seed):
            edits = True
        elif _reads_edits(item) and form is ModelFormat.ONNX:
            return count + 1 if edits else 0
        elif _converts(item) and form is not ModelFormat.ONNX:
            form = ModelFormat.ONNX
        else:
            break
        count += 1
    return count if edits and (model.waiting or count > 1) else 0


def run_chain(items: Sequence[OptimizationPass], model: Model, works: Sequence[Workplace]) -> list[Outcome]:
    """Return the outcomes of passes that read the weights together; `works` are their places. Raises as they do."""
    journal, weights = _journal(works[-1]), None
    kept = dict(model.waiting.kept) if model.waiting else {}
    if model.package.format is ModelFormat.ONNX and not model.waiting:
        kept, model = kept_in(model.weights), with_dense_weights(model, works[0].scratch)
    links: list[_Link] = []
    for number, (item, work) in enumerate(zip(items, _places(items, works), strict=True)):
        editing = PASSES[item.kind].edits(item, work.seed)
        if editing is None:
            outcome, weights = PASSES[item.kind].run(item, model, work), None
            links.append(_Link(outcome.model, outcome.notes))
        else:
            weights = _weights(model) if weights is None else weights  # of one graph once: they may hold its bytes
            remember = partial(_remember, journal, work.unfinished.name if work.unfinished else str(number))
            links.append(_edited(editing, model, weights, work, remember))
        model = links[-1].model
    if model.waiting:
        links[-1] = replace(links[-1], model=settled(model, works[-1]))
    outcomes = []
    for link in links:
        outcome, kept = link.outcome(kept)
        outcomes.append(outcome)
    journal.forget()
    read_with = {"readWith": items[-1].kind}
    return [replace(item, notes=item.notes | read_with) if item.model.waiting else item for item in outcomes]


@dataclass(frozen=True, slots=True)
class _Link:
    """A pass of a chain. `changed` are the weights that it edits, as they are afterwards."""

    model: Model
    notes: dict[str, object] = field(default_factory=dict)
    remember: Remember = find_anew
    editing: Editing | None = None
    changed: tuple[Weight, ...] = ()

    def outcome(self, kept: dict[str, int]) -> tuple[Outcome, dict[str, int]]:
        """Return the result of the pass, once all weights were read.

        `kept` tells of weights that were pruned before how many values are not zero; what is known then comes back.
        """
        pruned = self.changed if self.editing and self.editing.prunes else ()
        kept = kept | kept_of(pruned, self.remember)
        saved = _saved(self.model, kept) if self.editing or self.model.waiting else {}
        notes = self.notes
        if self.editing:
            known = {weight.name: kept.get(weight.name, weight.count) for weight in self.changed}
            done = reweighed(self.changed, known, tuple(sorted(saved.keys() & known.keys())))
            notes = self.editing.notes(done, self.model.package.format)
        if self.model.waiting is None:
            return Outcome(self.model, notes), kept
        size = replace(self.model, waiting=None).size_bytes() - sum(saved.values())
        waiting = Waiting(self.model.waiting.edits, size, kept)
        return Outcome(write_waiting(self.model.folder, self.model.package, waiting), notes), kept


def _edited(editing: Editing, model: Model, found: list[Weight], work: Workplace, remember: Remember) -> _Link:
    """Return the link of a pass that edits weights, which nobody has read yet."""
    form = model.package.format
    before = model.waiting.edits if model.waiting else {}
    weights = [replace(weight, edits=before.get(weight.name, ())) for weight in found]
    choose = _counting(editing.choose) if editing.prunes else editing.choose
    changed = edited(chosen_weights(weights, editing.ignored), choose, remember)
    made = share_package(model, work.target)
    if editing.prunes and form is not ModelFormat.ONNX:
        made = mark_pruned(made, tuple(weight.name for weight in changed))
    edits = {**before, **{weight.name: weight.edits for weight in changed}}
    waiting = Waiting(edits, model.size_bytes())
    return _Link(replace(made, waiting=waiting), {}, remember, editing, tuple(changed))


def _saved(model: Model, kept: Mapping[str, int]) -> dict[str, int]:
    """Return the bytes that are saved by weights which are, or will be, stored sparse; 0 for those that are."""
    if model.package.format is not ModelFormat.ONNX:
        return {}
    proto = onnx.load(model.weights, load_external_data=False)
    if model.waiting is None:
        return dict.fromkeys(packed_in(proto), 0)
    if opset_of(proto) < OPSET:
        return {}
    pruned = [weight for weight in graph_weights(proto.graph, model.folder) if weight.name in kept]
    worth = [weight for weight in pruned if is_worth_it(weight, kept[weight.name])]
    return {weight.name: weight.size_bytes - packed_bytes(weight, kept[weight.name]) for weight in worth}


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
            kept_of([replace(weight, edits=(*weight.edits, edit))], remember)
            return edit

        return found

    return counting


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


def _remember(journal: Journal, of: str, name: str, find: Callable[[], int]) -> int:
    """Remember what was found for one pass: another chain, in the same folder, may begin with another one."""
    return journal.remember(f"{of} {name}", find)


def _converts(item: OptimizationPass) -> bool:
    return bool(item.convert and item.convert.to is Target.ONNX)


def _reads_edits(item: OptimizationPass) -> bool:
    return bool(item.quantize and item.quantize.mode in _READ_AT_ONCE)
