"""Change the weights of a model at either stage: what prune and clip share, and what reads dense weights."""

from pathlib import Path

from trimtab_api.errors import PassFailed
from trimtab_api.package import ONNX_FILE, WEIGHTS_FILE
from trimtab_api.spec import ModelFormat
from trimtab_optimizer.package import Model, copy_beside_weights, write_package
from trimtab_optimizer.passes.contract import Workplace
from trimtab_optimizer.passes.resuming import place_to_write
from trimtab_optimizer.streaming.edits import Choice
from trimtab_optimizer.streaming.reweigh import Reweighed, reweigh_onnx, reweigh_safetensors
from trimtab_optimizer.streaming.sparse import unpack


def reweigh(
    name: str, model: Model, work: Workplace, choose: Choice, ignored: tuple[str, ...]
) -> tuple[Model, Reweighed]:
    """Return the model with the edit that `choose` makes of its weights; `name` is that of the pass.

    Raises PassFailed for layers that do not exist, and for weights that are not in safetensors.
    """
    if model.package.format is ModelFormat.ONNX:
        work.target.mkdir(parents=True)
        with place_to_write(work) as place:
            done = reweigh_onnx(model.weights, place.folder / ONNX_FILE, work.scratch, choose, ignored, place.key)
        return write_package(work.target, model.package), done
    check_safetensors(name, model.weights)
    copy_beside_weights(model, work.target)
    with place_to_write(work) as place:
        done = reweigh_safetensors(model.weights, place.folder / WEIGHTS_FILE, choose, ignored, place.key)
    return write_package(work.target, model.package.model_copy(update={"weights": WEIGHTS_FILE})), done


def with_dense_weights(model: Model, scratch: Path) -> Model:
    """Return a graph with weights that pruning stored sparse as plain tensors; the same model where there are none."""
    folder = scratch / "dense"
    folder.mkdir()
    return Model(folder, model.package) if unpack(model.weights, folder / ONNX_FILE) else model


def check_safetensors(name: str, weights: Path) -> None:
    """Refuse weights in another form than safetensors. Raises PassFailed."""
    if weights.suffix != ".safetensors":
        raise PassFailed(f"{name} reads weights in safetensors, not {weights.name}; save them again, or convert first")
