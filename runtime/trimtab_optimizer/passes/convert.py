"""convert: a PyTorch module becomes ONNX with a dynamic batch axis, and has to predict the same.

The exported file must not depend on where or when it was made, so traces of the exporting process (stack traces with
paths, in node metadata) are taken out.
"""

import shutil
from typing import Any, Final

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from trimtab_api.errors import PassFailed
from trimtab_api.package import ONNX_FILE, ModelPackage
from trimtab_api.spec import ModelFormat, OptimizationPass
from trimtab_optimizer.importers.empty import is_large
from trimtab_optimizer.importers.pytorch import load_module, structure_of
from trimtab_optimizer.memory import lacks_memory
from trimtab_optimizer.package import Model, write_package
from trimtab_optimizer.passes.capture import capture
from trimtab_optimizer.passes.contract import Outcome, Workplace
from trimtab_optimizer.passes.referring import export_referring
from trimtab_optimizer.predict import predictor_of
from trimtab_optimizer.streaming.reweigh import store_sparse
from trimtab_optimizer.tensors import example_inputs

# Largest difference between torch and ONNX, relative to the largest output where that is above one.
TOLERANCE: Final = 1e-4

_COMPARED_ROWS = 64
_LARGEST_INLINE = 1 << 30  # protobuf ends at 2 GiB; weights beyond this go beside the graph


def convert(item: OptimizationPass, model: Model, work: Workplace) -> Outcome:
    """Return the model as ONNX. Raises PassFailed where it cannot be exported or predicts something else."""
    wanted = item.convert.to if item.convert else "onnx"
    if wanted != "onnx":
        raise PassFailed(f"convert cannot make `{wanted}`; use `convert: {{to: onnx}}`")
    if model.package.format is ModelFormat.ONNX:
        shutil.copytree(model.folder, work.target)
        return Outcome(Model(work.target, model.package), {"note": "the model was ONNX already: nothing was done"})
    work.target.mkdir(parents=True)
    sparse: tuple[str, ...] = ()
    if is_large(model):
        export_referring(model, work.target, work.seed)
    else:
        _export(model, work)
        sparse = store_sparse(work.target / ONNX_FILE, work.scratch) if structure_of(model).sparse else ()
    changes = {"format": ModelFormat.ONNX, "weights": ONNX_FILE} | dict.fromkeys(("entrypoint", "structure", "metrics"))
    made = write_package(work.target, model.package.model_copy(update=changes))
    return Outcome(made, {"tolerance": TOLERANCE, "sparse": list(sparse), **_compared(model, made, work)})


def _export(model: Model, work: Workplace) -> None:
    module = load_module(model, work.allow_pickle)
    graph = capture(module, model.package, work.seed, optimize=True)
    size = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    beside = f"{ONNX_FILE}.data" if size > _LARGEST_INLINE else None
    onnx_ir.save(graph, work.target / ONNX_FILE, external_data=beside)


def _compared(model: Model, made: Model, work: Workplace) -> dict[str, object]:
    """Return notes of a comparison, or why there was none."""
    why = lacks_memory(model, made)
    return {"notCompared": why} if why else {"maxDifference": _verify(model, made, work)}


def _verify(source: Model, made: Model, work: Workplace) -> float:
    """Return the largest difference of the predictions, relative as TOLERANCE says. Raises PassFailed above it."""
    inputs = _rows(source.package, work)
    expected = predictor_of(source, work.allow_pickle).predict(inputs)
    found = predictor_of(made, work.allow_pickle).predict(inputs)
    worst = max(_difference(a, b) for a, b in zip(expected, found, strict=True))
    if not worst <= TOLERANCE:
        raise PassFailed(
            f"convert: ONNX and PyTorch differ by {worst:.2e}, allowed is {TOLERANCE:.0e}; "
            "look for operators that depend on the batch or on random numbers in the module"
        )
    return worst


def _difference(expected: NDArray[Any], found: NDArray[Any]) -> float:
    if expected.shape != found.shape:
        raise PassFailed(f"convert: ONNX gives the shape {list(found.shape)}, PyTorch {list(expected.shape)}")
    if not expected.size:
        return 0.0
    a, b = expected.astype(np.float64), found.astype(np.float64)
    return float(np.abs(a - b).max() / max(1.0, np.abs(a).max()))


def _rows(package: ModelPackage, work: Workplace) -> dict[str, NDArray[Any]]:
    """Return real rows where the plan has data, else made-up ones; other rows than the export saw."""
    data = work.evaluation or work.data
    return next(data.batches(_COMPARED_ROWS)) if data else example_inputs(package.inputs, _COMPARED_ROWS, work.seed + 1)
