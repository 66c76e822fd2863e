"""int8 weights and activations with ranges from calibration data.

Unsigned activations and signed weights per channel: the fastest on x86 CPUs. ONNX Runtime's own tools do it where a
graph can be held. Of larger ones the ranges are measured layer by layer and the weights streamed, of matrix products.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from trimtab_api.errors import PassFailed
from trimtab_api.spec import ModelFormat
from trimtab_optimizer.data import Dataset
from trimtab_optimizer.importers import empty
from trimtab_optimizer.package import Model
from trimtab_optimizer.streaming.kernels import COLUMN_CODES, FULL_CODES
from trimtab_optimizer.streaming.rewrite import find_matrices
from trimtab_optimizer.streaming.segments import ranges_of
from trimtab_optimizer.streaming.static import StaticInt8

_BATCH: Final = 32


def is_large_graph(model: Model) -> bool:
    """Tell whether a model is a graph that has more bytes of weights than are held."""
    if model.package.format is not ModelFormat.ONNX:
        return False
    graph = onnx.load(model.weights, load_external_data=False).graph
    return sum(int(np.prod(tensor.dims, dtype=np.int64)) * 4 for tensor in graph.initializer) > empty.LARGEST_HELD


def calibrated(source: Path, scratch: Path, calibration: Dataset, samples: int, full_range: bool) -> StaticInt8:
    """Return the scheme for a graph that is too large to be held. Raises PassFailed and InvalidData."""
    graph = onnx.load(source, load_external_data=False).graph
    products = find_matrices(graph, source.parent)
    read = {node.input[0] for node in graph.node if node.output and node.output[0] in products}
    waiting = scratch / "activations"
    waiting.mkdir()
    ranges = ranges_of(source, read, calibration.batches(_BATCH, samples), waiting)
    return StaticInt8(ranges, FULL_CODES if full_range else COLUMN_CODES)


def quantize_static_int8(
    source: Path, target: Path, scratch: Path, calibration: Dataset, samples: int, full_range: bool = False
) -> None:
    """Write `source` in int8 to `target`, calibrated on the first rows. Raises PassFailed.

    `full_range` uses all codes of int8, which only CPUs with VNNI add up right.
    """
    prepared = _prepare(_whole(source, scratch / "whole"), scratch / "prepared.onnx")
    try:
        quantize_static(
            prepared,
            target,
            _Reader(calibration, samples),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=not full_range,  # see COLUMN_CODES in streaming/kernels.py
            calibrate_method=CalibrationMethod.MinMax,
        )
    except Exception as error:
        raise PassFailed(f"quantize (static) failed: {_flat(error)}") from error


def _whole(source: Path, folder: Path) -> Path:
    """Return a graph with its tensors within it.

    ONNX Runtime's tools write the graph elsewhere and then look for the tensors beside it, and the onnx package reads
    no file that has a second name.
    """
    graph = onnx.load(source, load_external_data=False).graph
    if all(tensor.data_location != onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
        return source
    shutil.copytree(source.parent, folder)
    onnx.save(onnx.load(folder / source.name), folder / source.name)
    return folder / source.name


def _prepare(source: Path, target: Path) -> Path:
    """Infer shapes and fold constants. Symbolic inference does not know every operator, so it may be left out."""
    for skip_symbolic in (False, True):
        try:
            quant_pre_process(source, target, skip_symbolic_shape=skip_symbolic)
            return target
        except Exception as error:
            if skip_symbolic:
                raise PassFailed(f"quantize cannot prepare the graph: {_flat(error)}") from error
    return target


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Gives calibration rows batch by batch. With minmax, no activation is kept from one batch to the next."""

    def __init__(self, data: Dataset, samples: int) -> None:
        self._batches: Iterator[dict[str, NDArray[Any]]] = data.batches(_BATCH, samples)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._batches, None)


def _flat(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
