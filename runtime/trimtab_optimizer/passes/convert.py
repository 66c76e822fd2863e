"""convert: the model takes the form that is served, and has to predict the same."""

from trimtab_api.spec import Convert, OptimizationPass, Target
from trimtab_optimizer.package import Model
from trimtab_optimizer.passes.contract import Outcome, Workplace
from trimtab_optimizer.passes.genai_export import to_genai
from trimtab_optimizer.passes.litert_export import to_litert
from trimtab_optimizer.passes.onnx_export import to_onnx


def convert(item: OptimizationPass, model: Model, work: Workplace) -> Outcome:
    """Return the model as asked for. Raises PassFailed where that is impossible or predicts something else."""
    target = (item.convert or Convert()).to
    if target is Target.GENAI:
        return to_genai(model, work)
    return to_onnx(model, work) if target is Target.ONNX else to_litert(target, model, work)
