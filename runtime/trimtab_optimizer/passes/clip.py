"""clip: weights beyond a percentile of their layer's magnitudes are set to it.

A few large weights stretch the range that quantization has to cover; without them its steps are finer. By itself this
makes nothing smaller. To take whole channels out is `prune`.
"""

import shutil

from trimtab_api.errors import PassFailed
from trimtab_api.package import ONNX_FILE, WEIGHTS_FILE
from trimtab_api.spec import ModelFormat, OptimizationPass
from trimtab_optimizer.package import Model, write_package
from trimtab_optimizer.passes.contract import Outcome, Workplace
from trimtab_optimizer.streaming.edits import clip_at
from trimtab_optimizer.streaming.reweigh import Reweighed, reweigh_onnx, reweigh_safetensors


def clip(item: OptimizationPass, model: Model, work: Workplace) -> Outcome:
    """Return the model with its largest weights cut. Raises PassFailed for layers that do not exist."""
    options = item.clip
    assert options
    if not 50 <= options.percentile < 100:
        raise PassFailed(f"clip: percentile is {options.percentile:g}; take one from 50 to below 100, such as 99.9")
    if model.package.format is ModelFormat.ONNX:
        work.target.mkdir(parents=True)
        target = work.target / ONNX_FILE
        done = reweigh_onnx(
            model.weights, target, work.scratch, lambda w: clip_at(w, options.percentile), options.ignored_layers
        )
        return Outcome(write_package(work.target, model.package), _notes(done))
    if model.weights.suffix != ".safetensors":
        raise PassFailed(
            f"clip reads weights in safetensors, not {model.weights.name}; save them again, or convert first"
        )
    shutil.copytree(model.folder, work.target)
    target = work.target / (model.package.weights or WEIGHTS_FILE)
    done = reweigh_safetensors(model.weights, target, lambda w: clip_at(w, options.percentile), options.ignored_layers)
    return Outcome(Model(work.target, model.package), _notes(done))


def _notes(done: Reweighed) -> dict[str, object]:
    return {"weights": len(done.weights)}
