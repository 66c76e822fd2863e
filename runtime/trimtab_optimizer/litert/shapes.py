"""Make shapes that a graph computes at run time constants where only the batch is free in them.

TensorFlow's converter has to know the rank of every tensor, and what exporters write for attention computes its shapes
from others. A shape that is the same for every input, but for one place that follows the batch, is a constant with -1
there. Shapes are observed on inputs of several sizes, not derived: the conversion is held against its source later.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir
import onnx_ir.passes.common
import onnxruntime as ort
from numpy.typing import NDArray

from trimtab_api.package import ModelPackage, Tensor
from trimtab_optimizer.tensors import example_inputs

_SIZES: Final = ((2, 8), (3, 8), (2, 12), (5, 9))  # rows, and the length of axes that are free besides


def make_shapes_constant(graph: Path, target: Path, package: ModelPackage) -> None:
    """Write a graph in which computed shapes are constants where they can be, without the nodes that computed them."""
    model = onnx.load(graph)
    computed = _computed_shapes(model.graph)
    for name, values in _observe(model, computed, package).items():
        constant = _constant(values)
        if constant is not None:
            _replace(model.graph, name, constant)
    ir = onnx_ir.serde.deserialize_model(_with_known_shapes(model))
    onnx_ir.passes.common.RemoveUnusedNodesPass()(ir)
    onnx_ir.save(ir, target, external_data=f"{target.name}.data")


def _with_known_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with the shapes of all results inferred anew; a first axis that is not known is the batch."""
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param or "batch"
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for value in inferred.graph.value_info:
        axes = value.type.tensor_type.shape.dim
        if len(axes) > 1 and not axes[0].WhichOneof("value"):
            axes[0].dim_param = batch
    return inferred


def _computed_shapes(graph: onnx.GraphProto) -> list[str]:
    made = {name for node in graph.node if node.op_type != "Constant" for name in node.output}
    return list(dict.fromkeys(n.input[1] for n in graph.node if n.op_type == "Reshape" and n.input[1] in made))


def _observe(model: onnx.ModelProto, names: list[str], package: ModelPackage) -> dict[str, list[NDArray[Any]]]:
    """Return the values of shapes for inputs of several sizes; none where the graph cannot be run with them."""
    if not names:
        return {}
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    given = {value.name for value in watched.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in given)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
        runs = [session.run(names, _inputs(package.inputs, *size)) for size in _SIZES]
    except MemoryError:
        raise
    except Exception:  # onnxruntime has no public base class of its errors; without this the conversion may still work
        return {}
    return {name: list(values) for name, values in zip(names, zip(*runs, strict=True), strict=True)}


def _inputs(tensors: Sequence[Tensor], rows: int, length: int) -> dict[str, NDArray[Any]]:
    shaped = tuple(
        tensor.model_copy(update={"shape": (-1, *(length if axis < 0 else axis for axis in tensor.shape[1:]))})
        for tensor in tensors
    )
    return example_inputs(shaped, rows, seed=0)


def _constant(values: list[NDArray[Any]]) -> NDArray[np.int64] | None:
    """Return the shape that stands for all that were seen, or None where more than one place is free."""
    if len({value.shape for value in values}) != 1:
        return None
    seen = np.stack(values)
    free = (seen != seen[0]).any(axis=0)
    if free.sum() > (0 if (seen[0] == -1).any() else 1):
        return None
    return np.where(free, -1, seen[0]).astype(np.int64)


def _replace(graph: onnx.GraphProto, name: str, constant: NDArray[np.int64]) -> None:
    made = f"{name}.constant"
    graph.initializer.append(onnx.numpy_helper.from_array(constant, made))
    for node in graph.node:
        if node.op_type == "Reshape" and node.input[1] == name:
            node.input[1] = made
