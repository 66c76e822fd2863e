"""A model becomes a LiteRT file, and for `savedmodel` a SavedModel beside it, and has to predict the same.

onnx2tf turns ONNX into a Keras model, TensorFlow that into both files (litert/converter.py), with the names, the order
and the layouts of model.yaml and a free number of rows. A module becomes ONNX first, by the export that serves as well.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from trimtab_api.errors import PassFailed
from trimtab_api.package import LITERT_FILE, SAVED_MODEL_FOLDER, ModelPackage, signature_name
from trimtab_api.spec import ModelFormat, Target
from trimtab_optimizer.litert import converter_script
from trimtab_optimizer.litert.file import LARGEST, count_litert_operators
from trimtab_optimizer.litert.shapes import make_shapes_constant
from trimtab_optimizer.litert.tools import run_tool
from trimtab_optimizer.package import Model, write_package
from trimtab_optimizer.passes.contract import Outcome, Workplace
from trimtab_optimizer.passes.onnx_export import to_onnx
from trimtab_optimizer.passes.reweighing import with_dense_weights
from trimtab_optimizer.passes.verification import compared
from trimtab_optimizer.predict import predictor_of
from trimtab_optimizer.tensors import example_inputs

_ROWS: Final = 3  # by which layouts are told; not of the data, which is not in the key of the pass
_WITH_CODE: Final = ("entrypoint", "structure", "metrics")


def to_litert(target: Target, model: Model, work: Workplace) -> Outcome:
    """Return the model in LiteRT. Raises PassFailed where that is impossible, MissingTool without TensorFlow."""
    _check_size(model.size_bytes(), target)
    exported = _as_onnx(model, work)
    graph = with_dense_weights(exported, work.scratch)
    _check_size(_size_in_memory(graph.weights), target)
    place = work.scratch / "tensorflow"
    place.mkdir()
    _write_request(graph, place, work.seed)
    run_tool(converter_script(), place, f"convert (to {target})")
    made = _lay_out(target, model.package, place, work.target)
    notes = compared(model, made, work)
    if graph is not exported:
        notes["note"] = "LiteRT has no sparse weights: zeros take as much room as any other number"
    return Outcome(made, notes | {"operators": count_litert_operators(made.weights)})


def _as_onnx(model: Model, work: Workplace) -> Model:
    if model.package.format is ModelFormat.ONNX:
        return model
    scratch = work.scratch / "onnx-scratch"
    scratch.mkdir()
    return to_onnx(model, replace(work, target=work.scratch / "onnx", scratch=scratch)).model


def _size_in_memory(graph: Path) -> int:
    tensors = onnx.load(graph, load_external_data=False).graph.initializer
    return sum(int(np.prod(tensor.dims, dtype=np.int64)) * 4 for tensor in tensors)


def _check_size(size: int, target: Target) -> None:
    if size > LARGEST:
        raise PassFailed(
            f"convert (to {target}): the weights have {size} bytes, and a LiteRT file ends at {LARGEST}; "
            "use `convert: {to: onnx}`, or prune or distill the model first"
        )


def _write_request(model: Model, place: Path, seed: int) -> None:
    """Write the graph, the names, and rows with their answers, by which the converter tells the layout of outputs."""
    package = model.package
    make_shapes_constant(model.weights, place / "graph.onnx", package)
    inputs = example_inputs(package.inputs, _ROWS, seed)
    answers = predictor_of(model, allow_pickle=False).predict(inputs)
    rows: dict[str, NDArray[Any]] = {f"input {name}": values for name, values in inputs.items()}
    rows |= {f"output {t.name}": values for t, values in zip(package.outputs, answers, strict=True)}
    np.savez(place / "rows.npz", **rows)  # type: ignore[arg-type]
    request = {
        "inputs": [tensor.name for tensor in package.inputs],
        "outputs": [tensor.name for tensor in package.outputs],
        "signature": _signature_names(package),
    }
    (place / "request.json").write_text(json.dumps(request))


def _signature_names(package: ModelPackage) -> dict[str, str]:
    names = {tensor.name: signature_name(tensor.name) for tensor in (*package.inputs, *package.outputs)}
    if len(set(names.values())) != len(names):
        raise PassFailed(
            f"convert: in LiteRT two of the names {', '.join(names)} would be the same, as it knows letters, digits "
            "and _ only; rename one in model.yaml"
        )
    return names


def _lay_out(target: Target, package: ModelPackage, place: Path, folder: Path) -> Model:
    """Move what the converter made to where the package belongs."""
    folder.mkdir(parents=True)
    shutil.move(place / LITERT_FILE, folder / LITERT_FILE)
    if target is Target.SAVEDMODEL:
        shutil.move(place / SAVED_MODEL_FOLDER, folder / SAVED_MODEL_FOLDER)
    changes = {"format": ModelFormat.LITERT, "weights": LITERT_FILE} | dict.fromkeys(_WITH_CODE)
    return write_package(folder, package.model_copy(update=changes))
