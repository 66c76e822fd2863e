"""Where a pass hurt most: the results of layers in two graphs side by side, as signal to noise in decibels.

Passes keep the names of results, whatever nodes they put in place of a product. So what has one name in both graphs is
given out by copies of both, and run on the same rows.
"""

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from trimtab_api.spec import ModelFormat
from trimtab_optimizer.package import Model
from trimtab_optimizer.report import LayerNoise
from trimtab_optimizer.tensors import Arrays

LARGEST: Final = 256 << 20  # bytes of weights; both graphs are held in memory with all results of a row
ROWS: Final = 32

_LISTED: Final = 5
_CLEAREST: Final = 200.0  # decibels either way, where a logarithm has no end
_PRODUCTS: Final = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "MatMulNBits", "MatMulInteger", "ConvInteger"})


def worst_layers(before: Model, after: Model, rows: Arrays) -> tuple[LayerNoise, ...] | str:
    """Return the layers that changed most, the worst first; or why they cannot be told."""
    formats = {model.package.format for model in (before, after)}
    if ModelFormat.LITERT in formats:
        return "compares two ONNX models; LiteRT names results in its own way, and gives none of them out"
    if ModelFormat.GENAI in formats:
        return "compares two ONNX models; a decoder of GenAI needs more than its rows"
    if formats != {ModelFormat.ONNX}:
        return "compares two ONNX models, and one of these is a module"
    if max(model.size_bytes() for model in (before, after)) > LARGEST:
        return f"compares models of at most {LARGEST >> 20} MiB"
    try:
        return _compare(onnx.load(before.weights), onnx.load(after.weights), rows)
    except MemoryError:
        raise
    except Exception as error:  # onnxruntime has no public base class of its errors
        return f"the graphs cannot be run with more outputs: {' '.join(str(error).split())[:200]}"


def sqnr_db(signal: float, noise: float) -> float:
    """Return signal to noise in decibels, from sums of squares; bounded, since either may be zero."""
    if not math.isfinite(noise) or signal == 0:
        return -_CLEAREST
    return round(min(_CLEAREST, max(-_CLEAREST, 10 * math.log10(signal / noise))), 3) if noise else _CLEAREST


def _compare(before: onnx.ModelProto, after: onnx.ModelProto, rows: Arrays) -> tuple[LayerNoise, ...]:
    names = _layers_in_both(before.graph, after.graph)
    weights = {name: _weight(before.graph, name) for name in names}
    sums = _sums(before, after, names, rows) if names else {}
    found = [
        LayerNoise(name=name, sqnr_db=sqnr_db(signal, noise), weight=weights[name])
        for name, (signal, noise) in sums.items()
        if noise
    ]
    return tuple(sorted(found, key=lambda layer: (layer.sqnr_db, layer.name))[:_LISTED])


def _sums(
    before: onnx.ModelProto, after: onnx.ModelProto, names: list[str], rows: Arrays
) -> dict[str, tuple[float, float]]:
    """Return the sums of squares of each layer's results and of their noise."""
    as_read = [_as_read(after.graph, name) for name in names]
    plain, changed = _giving(before, names), _giving(after, as_read)
    sums = dict.fromkeys(names, (0.0, 0.0))
    for row in _singles(rows):
        for name, wanted, found in zip(names, plain.run(names, row), changed.run(as_read, row), strict=True):
            if wanted.shape == found.shape:
                signal, noise = sums[name]
                sums[name] = signal + _squares(wanted), noise + _squares(wanted.astype(np.float64) - found)
    return sums


def _layers_in_both(before: onnx.GraphProto, after: onnx.GraphProto) -> list[str]:
    kinds = [{name: node.op_type for node in graph.node for name in node.output} for graph in (before, after)]
    return [name for name, kind in kinds[0].items() if name in kinds[1] and {kind, kinds[1][name]} & _PRODUCTS]


def _as_read(graph: onnx.GraphProto, name: str) -> str:
    """Return where the readers of a result find it: behind its quantization, which may stand for a Relu as well."""
    quantized = _only_reader(graph, name, "QuantizeLinear")
    return (quantized and _only_reader(graph, quantized, "DequantizeLinear")) or name


def _only_reader(graph: onnx.GraphProto, name: str, kind: str) -> str | None:
    """Return what the one kind of node that reads a result makes of it."""
    readers = [node for node in graph.node if name in node.input]
    return readers[0].output[0] if readers and all(node.op_type == kind for node in readers) else None


def _weight(graph: onnx.GraphProto, name: str) -> str | None:
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 1}
    inputs = [item for node in graph.node if name in node.output for item in node.input]
    return next((item for item in inputs if item in matrices), None)


def _giving(model: onnx.ModelProto, names: list[str]) -> ort.InferenceSession:
    """Return what runs a model and gives these results. Uses the model up."""
    given = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in given)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    model.Clear()  # the session has weights of its own
    return session


def _singles(rows: Arrays) -> Iterator[dict[str, NDArray[Any]]]:
    count = min(ROWS, len(next(iter(rows.values()))))
    for number in range(count):
        yield {name: values[number : number + 1] for name, values in rows.items()}


def _squares(values: NDArray[Any]) -> float:
    return float(np.square(values.astype(np.float64)).sum())
