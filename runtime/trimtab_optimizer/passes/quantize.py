"""quantize: int8 weights, and int8 arithmetic where ONNX Runtime is faster with it.

dynamic: MatMul and Gemm only, since int8 convolutions of this kind run up to four times slower than float ones.
static: ranges from calibration data; unsigned activations and signed weights per channel, the fastest on x86 CPUs.
Both are checked for an effect: the library reports success for a graph in which it changed nothing.
"""

from collections import Counter
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
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from trimtab_api.errors import PassFailed
from trimtab_api.package import ONNX_FILE
from trimtab_api.spec import OptimizationPass, Quantize
from trimtab_optimizer.data import Dataset
from trimtab_optimizer.package import Model, write_package
from trimtab_optimizer.passes.contract import Outcome, Workplace

_DYNAMIC_OPERATORS: Final = ("MatMul", "Gemm")
_QUANTIZED: Final = frozenset({"MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul", "DequantizeLinear"})
_BATCH: Final = 32
_LARGEST_INLINE: Final = 1 << 30


def quantize(item: OptimizationPass, model: Model, work: Workplace) -> Outcome:
    """Return the model with int8 weights. Raises PassFailed where that is impossible or changes nothing."""
    options = item.quantize or Quantize()
    _check_options(options, work.calibration)
    before = _operators(model.weights)
    if any(name in before for name in _QUANTIZED):
        raise PassFailed("quantize: the model is quantized already; leave the pass out")
    work.target.mkdir(parents=True)
    prepared = _prepare(model.weights, work.scratch / "prepared.onnx")
    if options.mode == "static" and options.calibration and work.calibration:
        _static(prepared, work.target / ONNX_FILE, work.calibration, options.calibration.samples)
    else:
        _dynamic(prepared, work.target / ONNX_FILE)
    made = write_package(work.target, model.package)
    return Outcome(made, {"mode": options.mode, "operators": _check_effect(model, made, options.mode)})


def _check_options(options: Quantize, calibration: Dataset | None) -> None:
    if options.dtype != "int8":
        raise PassFailed(f"quantize cannot make `{options.dtype}`; use dtype: int8")
    if options.mode not in ("dynamic", "static"):
        raise PassFailed(f"quantize knows no mode `{options.mode}`; use dynamic or static")
    if options.mode == "static" and calibration is None:
        raise PassFailed("quantize: mode static needs data; add calibration: {uri: oci://...}, or use mode: dynamic")


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


def _dynamic(source: Path, target: Path) -> None:
    try:
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=list(_DYNAMIC_OPERATORS),
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=_has_large_weights(source),
        )
    except Exception as error:
        raise PassFailed(f"quantize (dynamic) failed: {_flat(error)}") from error


def _static(source: Path, target: Path, calibration: Dataset, samples: int) -> None:
    try:
        quantize_static(
            source,
            target,
            _Reader(calibration, samples),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            calibrate_method=CalibrationMethod.MinMax,
            use_external_data_format=_has_large_weights(source),
        )
    except Exception as error:
        raise PassFailed(f"quantize (static) failed: {_flat(error)}") from error


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Gives calibration rows batch by batch. With minmax, no activation is kept from one batch to the next."""

    def __init__(self, data: Dataset, samples: int) -> None:
        self._batches: Iterator[dict[str, NDArray[Any]]] = data.batches(_BATCH, samples)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._batches, None)


def _check_effect(before: Model, after: Model, mode: str) -> dict[str, int]:
    """Return how many quantized operators there are. Raises PassFailed if there are none or the file did not shrink."""
    counts = {name: count for name, count in _operators(after.weights).items() if name in _QUANTIZED}
    if not counts:
        hint = f"dynamic quantization covers {' and '.join(_DYNAMIC_OPERATORS)}; " if mode == "dynamic" else ""
        raise PassFailed(f"quantize ({mode}) changed nothing: no operator it knows; {hint}try the other mode")
    small, large = after.size_bytes(), before.size_bytes()
    if small >= large:
        raise PassFailed(
            f"quantize ({mode}) gained nothing: {large} bytes before, {small} after; "
            "the weights it covers are too few: try the other mode or leave the pass out"
        )
    return counts


def _operators(path: Path) -> Counter[str]:
    graph = onnx.load(path, load_external_data=False).graph
    return Counter(node.op_type for node in graph.node)


def _has_large_weights(path: Path) -> bool:
    graph = onnx.load(path, load_external_data=False).graph
    sizes = (int(np.prod(tensor.dims, dtype=np.int64)) * 4 for tensor in graph.initializer)
    return sum(sizes) > _LARGEST_INLINE


def _flat(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
