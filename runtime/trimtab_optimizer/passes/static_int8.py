"""int8 weights and activations with ranges from calibration data, by ONNX Runtime.

Unsigned activations and signed weights per channel: the fastest on x86 CPUs.
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
from trimtab_optimizer.data import Dataset

_BATCH: Final = 32
_LARGEST_INLINE: Final = 1 << 30


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
            use_external_data_format=_has_large_weights(prepared),
        )
    except Exception as error:
        raise PassFailed(f"quantize (static) failed: {_flat(error)}") from error


def _whole(source: Path, folder: Path) -> Path:
    """Return a graph of files that only it has, its tensors within it as long as they fit.

    ONNX Runtime's tools write the graph elsewhere and then look for the tensors beside it, and the onnx package reads
    no file that has a second name.
    """
    graph = onnx.load(source, load_external_data=False).graph
    if all(tensor.data_location != onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
        return source
    shutil.copytree(source.parent, folder)
    copied = folder / source.name
    onnx.save(onnx.load(copied), copied, save_as_external_data=_has_large_weights(source), location="whole.data")
    return copied


def _prepare(source: Path, target: Path) -> Path:
    """Infer shapes and fold constants. Symbolic inference does not know every operator, so it may be left out."""
    large = _has_large_weights(source)
    for skip_symbolic in (False, True):
        try:
            quant_pre_process(source, target, skip_symbolic_shape=skip_symbolic, save_as_external_data=large)
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


def _has_large_weights(path: Path) -> bool:
    graph = onnx.load(path, load_external_data=False).graph
    sizes = (int(np.prod(tensor.dims, dtype=np.int64)) * 4 for tensor in graph.initializer)
    return sum(sizes) > _LARGEST_INLINE


def _flat(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
