"""Models that a server is tried with, by what takes the time: the server, products of matrices, convolutions."""

from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_random = np.random.default_rng(0)
SHAPES: Final = {"small": (64,), "wide": (256,), "deep": (64,), "convolution": (3, 32, 32)}  # of a row
CLASSES: Final = 10


def write(name: str, folder: Path) -> Path:
    """Write a model as a package of ours into a new folder."""
    folder.mkdir(parents=True)
    nodes, weights = _convolutions() if name == "convolution" else _layers(_WIDTHS[name])
    values = [
        helper.make_tensor_value_info(key, TensorProto.FLOAT, ["rows", *shape])
        for key, shape in (("x", SHAPES[name]), ("y", (CLASSES,)))
    ]
    constants = [numpy_helper.from_array(array, key) for key, array in weights.items()]
    graph = helper.make_graph(nodes, name, values[:1], values[1:], constants)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), folder / "model.onnx"
    )
    tensors = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, *SHAPES[name]]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, CLASSES]}],
    }
    (folder / "model.yaml").write_text(yaml.safe_dump({"name": "model", "format": "onnx", **tensors}))
    return folder


def row(name: str) -> NDArray[np.float32]:
    """Return one row."""
    return np.random.default_rng(7).standard_normal((1, *SHAPES[name]), np.float32)


_WIDTHS: Final = {
    "small": (64, 32, CLASSES),
    "wide": (256, 2048, 2048, CLASSES),
    "deep": (64, *[1024] * 60, CLASSES),
}


def _weights(*shape: int) -> NDArray[np.float32]:
    return _random.standard_normal(shape, np.float32) / np.float32(np.sqrt(np.prod(shape[:-1])))


def _layers(widths: tuple[int, ...]) -> tuple[list[Any], dict[str, Any]]:
    nodes, weights, before = [], {}, "x"
    for at, (inputs, outputs) in enumerate(pairwise(widths)):
        weights |= {f"w{at}": _weights(inputs, outputs), f"b{at}": np.zeros(outputs, np.float32)}
        nodes.append(helper.make_node("Gemm", [before, f"w{at}", f"b{at}"], [f"g{at}"]))
        is_last = at == len(widths) - 2
        before = "y" if is_last else f"h{at}"
        nodes.append(helper.make_node("Softmax" if is_last else "Relu", [f"g{at}"], [before]))
    return nodes, weights


def _convolutions() -> tuple[list[Any], dict[str, Any]]:
    nodes, weights, before, inputs = [], {}, "x", 3
    for at, outputs in enumerate((32, 64, 128)):
        weights |= {f"k{at}": _weights(outputs, inputs, 3, 3), f"b{at}": np.zeros(outputs, np.float32)}
        stride = [2, 2] if at else [1, 1]
        nodes.append(helper.make_node("Conv", [before, f"k{at}", f"b{at}"], [f"c{at}"], pads=[1] * 4, strides=stride))
        before, inputs = f"h{at}", outputs
        nodes.append(helper.make_node("Relu", [f"c{at}"], [before]))
    weights |= {"w": _weights(inputs, CLASSES), "b": np.zeros(CLASSES, np.float32)}
    nodes += [
        helper.make_node("GlobalAveragePool", [before], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["y"]),
    ]
    return nodes, weights
