"""Change the weights of a model at either stage: what prune and clip share, and what reads dense weights."""

from dataclasses import replace
from pathlib import Path

from trimtab_api.errors import PassFailed
from trimtab_api.package import ONNX_FILE, WEIGHTS_FILE
from trimtab_api.spec import ModelFormat
from trimtab_optimizer.importers.pytorch import mark_pruned
from trimtab_optimizer.package import Model, copy_beside_weights, write_package
from trimtab_optimizer.passes.contract import Editing, Outcome, Workplace
from trimtab_optimizer.passes.resuming import place_to_write
from trimtab_optimizer.streaming.reweigh import (
    Reweighed,
    reweigh_onnx,
    reweigh_safetensors,
    write_edited,
    write_edited_stored,
)
from trimtab_optimizer.streaming.sparse import unpack


def reweigh(name: str, model: Model, work: Workplace, editing: Editing) -> Outcome:
    """Return the model with the edit of its weights; `name` is that of the pass.

    Raises PassFailed for layers that do not exist, and for weights that are not in safetensors.
    """
    form = model.package.format
    made, done = _graph(model, work, editing) if form is ModelFormat.ONNX else _module(name, model, work, editing)
    return Outcome(made, editing.notes(done, form))


def settled(model: Model, work: Workplace) -> Model:
    """Return a model whose weights waited for edits with these made."""
    assert model.waiting
    edits, package = model.waiting.edits, model.package.model_copy(update={"edits": None})
    if package.format is ModelFormat.ONNX:
        work.target.mkdir(parents=True)
        with place_to_write(work) as (folder, key):
            write_edited(model.weights, folder / ONNX_FILE, edits, key)
        return write_package(work.target, package)
    copy_beside_weights(model, work.target)
    if model.package.edits:
        (work.target / model.package.edits).unlink()
    with place_to_write(work) as (folder, key):
        write_edited_stored(model.weights, folder / WEIGHTS_FILE, edits, key)
    return write_package(work.target, package.model_copy(update={"weights": WEIGHTS_FILE}))


def with_dense_weights(model: Model, scratch: Path) -> Model:
    """Return a graph with weights that pruning stored sparse as plain tensors; the same model where there are none."""
    folder = scratch / "dense"
    folder.mkdir()
    return replace(model, folder=folder) if unpack(model.weights, folder / ONNX_FILE) else model


def check_safetensors(name: str, weights: Path) -> None:
    """Refuse weights in another form than safetensors. Raises PassFailed."""
    if weights.suffix != ".safetensors":
        raise PassFailed(f"{name} reads weights in safetensors, not {weights.name}; save them again, or convert first")


def _graph(model: Model, work: Workplace, editing: Editing) -> tuple[Model, Reweighed]:
    work.target.mkdir(parents=True)
    with place_to_write(work) as (folder, key):
        file = folder / ONNX_FILE
        done = reweigh_onnx(model.weights, file, work.scratch, editing.choose, editing.ignored, key)
    return write_package(work.target, model.package), done


def _module(name: str, model: Model, work: Workplace, editing: Editing) -> tuple[Model, Reweighed]:
    check_safetensors(name, model.weights)
    copy_beside_weights(model, work.target)
    with place_to_write(work) as (folder, key):
        file = folder / WEIGHTS_FILE
        done = reweigh_safetensors(model.weights, file, editing.choose, editing.ignored, key)
    made = write_package(work.target, model.package.model_copy(update={"weights": WEIGHTS_FILE}))
    return mark_pruned(made, done.weights) if editing.prunes else made, done
