"""Change the weights of a model at either stage: what prune and clip share, and what reads dense weights."""

import shutil
from pathlib import Path

from trimtab_api.errors import PassFailed
from trimtab_api.package import ONNX_FILE, WEIGHTS_FILE
from trimtab_api.spec import ModelFormat
from trimtab_optimizer.package import Model, write_package
from trimtab_optimizer.passes.contract import Workplace
from trimtab_optimizer.streaming.reweigh import Choice, Reweighed, reweigh_onnx, reweigh_safetensors
from trimtab_optimizer.streaming.sparse import unpack


def reweigh(
    name: str, model: Model, work: Workplace, choose: Choice, ignored: tuple[str, ...]
) -> tuple[Model, Reweighed]:
    """Return the model with the edit that `choose` makes of its weights; `name` is that of the pass.

    Raises PassFailed for layers that do not exist, and for weights that are not in safetensors.
    """
    if model.package.format is ModelFormat.ONNX:
        work.target.mkdir(parents=True)
        done = reweigh_onnx(model.weights, work.target / ONNX_FILE, work.scratch, choose, ignored)
        return write_package(work.target, model.package), done
    _check_safetensors(name, model.weights)
    shutil.copytree(model.folder, work.target)
    target = work.target / (model.package.weights or WEIGHTS_FILE)
    done = reweigh_safetensors(model.weights, target, choose, ignored)
    return Model(work.target, model.package), done


def with_dense_weights(model: Model, scratch: Path) -> Model:
    """Return a graph with weights that pruning stored sparse as plain tensors; the same model where there are none."""
    folder = scratch / "dense"
    folder.mkdir()
    return Model(folder, model.package) if unpack(model.weights, folder / ONNX_FILE) else model


def _check_safetensors(name: str, weights: Path) -> None:
    if weights.suffix != ".safetensors":
        raise PassFailed(f"{name} reads weights in safetensors, not {weights.name}; save them again, or convert first")
