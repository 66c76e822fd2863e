"""Small ONNX models of a few matrix products, what they answer, and what they hold."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

_random = np.random.default_rng(0)


def same_numbers_again(seed: int = 0) -> None:
    """Let `matrix` begin anew, so that no test sees other values for what ran before it."""
    global _random
    _random = np.random.default_rng(seed)


def matrix(*shape: int) -> Any:
    """Return random float32 values."""
    return _random.standard_normal(shape, np.float32)


def model(folder: Path, nodes: list[Any], weights: dict[str, Any], inputs: int, outputs: int, external: bool) -> Path:
    """Write an ONNX model; with `external` its weights lie beside the graph."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", inputs])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", outputs])
    constants = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    onnx.save(made, path, save_as_external_data=external, location="weights.bin", size_threshold=0)
    return path


def tensor_beside(name: str, dims: tuple[int, int], offset: int, file: str = "weights.bin") -> TensorProto:
    """Return a float32 matrix that lies in a file beside its graph."""
    found = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims)
    found.data_location = TensorProto.EXTERNAL
    place = {"location": file, "offset": offset, "length": dims[0] * dims[1] * 4}
    for key, value in place.items():
        found.external_data.add(key=key, value=str(value))
    return found


def chain(path: Path, matrices: list[TensorProto]) -> Path:
    """Write the graph that multiplies its rows with square matrices, one after the other, from `x` to `y`."""
    names = ["x", *(f"h{number}" for number in range(1, len(matrices))), "y"]
    pairs = zip(names, matrices, names[1:], strict=False)
    nodes = [helper.make_node("MatMul", [before, item.name], [after]) for before, item, after in pairs]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", matrices[0].dims[0]]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], matrices)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def chain_beside(folder: Path, side: int, matrices: int) -> Path:
    """Write such a graph of square matrices, whose values lie one after the other in a file beside it."""
    with (folder / "weights.bin").open("wb") as file:
        for _ in range(matrices):
            matrix(side, side).tofile(file)
    beside = [tensor_beside(f"w{n}", (side, side), n * side * side * 4) for n in range(matrices)]
    return chain(folder / "model.onnx", beside)


def mixed_model(folder: Path, external: bool) -> Path:
    """Write a model with both ways to store a matrix, a bias, a short last block and a weight of two products."""
    weights = {"a": matrix(70, 96), "bias": matrix(96), "b": matrix(96, 96), "c": matrix(40, 96)}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h0"]),
        helper.make_node("Add", ["h0", "bias"], ["h1"]),
        helper.make_node("MatMul", ["h1", "b"], ["h2"]),
        helper.make_node("Relu", ["h2"], ["h3"]),
        helper.make_node("MatMul", ["h3", "b"], ["h4"]),
        helper.make_node("Gemm", ["h4", "c"], ["y"], transB=1),
    ]
    return model(folder, nodes, weights, 70, 40, external)


def answer(path: Path, rows: Any) -> Any:
    """Return the first output of a model for the rows of its input `x`."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options).run(None, {"x": rows})[0]


def tensors(path: Path) -> dict[str, Any]:
    """Return the constants of a graph by name."""
    return {item.name: numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}
