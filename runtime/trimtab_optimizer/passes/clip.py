"""clip: weights beyond a percentile of their layer's magnitudes are set to it.

A few large weights stretch the range that quantization has to cover; without them its steps are finer. By itself this
makes nothing smaller. To take whole channels out is `prune`.
"""

from trimtab_api.errors import PassFailed
from trimtab_api.spec import OptimizationPass
from trimtab_optimizer.package import Model
from trimtab_optimizer.passes.contract import Editing, Outcome, Workplace
from trimtab_optimizer.passes.reweighing import reweigh
from trimtab_optimizer.streaming.edits import clip_at


def clip(item: OptimizationPass, model: Model, work: Workplace) -> Outcome:
    """Return the model with its largest weights cut. Raises PassFailed for layers that do not exist."""
    editing = clipping(item, work.seed)
    return reweigh("clip", model, work, editing)


def clipping(item: OptimizationPass, seed: int) -> Editing:
    """Return what clip does to weights. Raises PassFailed for a percentile that is none."""
    options = item.clip
    assert options
    if not 50 <= options.percentile < 100:
        raise PassFailed(f"clip: percentile is {options.percentile:g}; take one from 50 to below 100, such as 99.9")
    choose = clip_at(options.percentile)
    return Editing(choose, options.ignored_layers, lambda done, form: {"weights": len(done.weights)})
