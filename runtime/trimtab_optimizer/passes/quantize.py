"""quantize: weights, and in int8 also the arithmetic, in fewer bits.

| dtype            | mode    | what changes                                           | what for                       |
|------------------|---------|--------------------------------------------------------|--------------------------------|
| int8             | dynamic | matrix products; activations are measured at each call | speed, but not of convolutions |
| int8             | static  | everything; ranges come from calibration data          | speed, of convolutions too     |
| int8, int4, int2 | weights | matrices, in blocks that the product itself unpacks    | memory, and speed for few rows |
| fp16, bf16       | weights | matrices, turned into float32 when the model is loaded | a smaller file, no speed       |
| fp8e4m3, fp8e5m2 | weights | the same, with a scale for each output                 | a quarter of the file          |

`mode: auto` makes int8 dynamic and static, measures both, and takes the faster.

This is of ONNX; LiteRT has fewer choices (quantize_litert.py). Static quantization is ONNX Runtime's own where a graph
can be held (static_int8.py). All else rewrites the graph weight by weight (trimtab_optimizer.streaming), in memory that
does not grow with the model. Each is checked for an effect: a pass that changed nothing has failed.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Final

import onnx
from onnx import TensorProto

from trimtab_api.errors import PassFailed
from trimtab_api.package import MANIFEST_FILE, REPORT_FILE, SUMS_FILE
from trimtab_api.spec import ModelFormat, OptimizationPass, Quantize
from trimtab_optimizer.data import Dataset
from trimtab_optimizer.importers.onnx import external_files, load_graph
from trimtab_optimizer.measuring.latency import latency_ratio
from trimtab_optimizer.measuring.operators import count_operators
from trimtab_optimizer.package import Model, share_file, write_package
from trimtab_optimizer.passes.contract import Outcome, Workplace
from trimtab_optimizer.passes.quantize_litert import quantize_litert
from trimtab_optimizer.passes.resuming import place_to_write
from trimtab_optimizer.passes.reweighing import with_dense_weights
from trimtab_optimizer.passes.static_int8 import calibrated, is_large_graph, quantize_static_int8
from trimtab_optimizer.streaming.kernels import BITS, BLOCK_SIZE, COLUMN_CODES, FULL_CODES
from trimtab_optimizer.streaming.rewrite import Rewritten, rewrite
from trimtab_optimizer.streaming.schemes import Blockwise, DynamicInt8, Float8, Scheme, Stored

_FLOATS: Final[dict[str, Scheme]] = {
    "fp16": Stored(TensorProto.FLOAT16),
    "bf16": Stored(TensorProto.BFLOAT16),
    "fp8e4m3": Float8(TensorProto.FLOAT8E4M3FN),
    "fp8e5m2": Float8(TensorProto.FLOAT8E5M2),
}
_MODES: Final = ("dynamic", "static", "weights", "auto")
_MEASURED_MODES: Final = ("static", "dynamic")
_QUANTIZED: Final = frozenset(
    {"MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul", "DequantizeLinear", "MatMulNBits"}
)
_FLOAT8: Final = frozenset({TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2})


def quantize(item: OptimizationPass, model: Model, work: Workplace) -> Outcome:
    """Return the model in fewer bits. Raises PassFailed where that is impossible or changes nothing."""
    options = item.quantize or Quantize()
    mode = mode_of(options)
    _check_options(options, mode, work.data)
    if model.package.format is ModelFormat.LITERT:
        return quantize_litert(options, mode, model, work)
    if _is_quantized(model.weights):
        raise PassFailed("quantize: the model is quantized already; leave the pass out")
    dense = with_dense_weights(model, work.scratch)
    return _fastest(options, dense, work) if mode == "auto" else _quantize(options, mode, dense, work)


def _quantize(options: Quantize, mode: str, model: Model, work: Workplace) -> Outcome:
    work.target.mkdir(parents=True)
    target = work.target / model.weights.name
    notes: dict[str, object] = {"mode": mode, "gain": "storage" if options.dtype in _FLOATS else "speed"}
    if mode == "static" and not is_large_graph(model):
        quantize_static_int8(model.weights, target, work.scratch, *_calibration(options, work))
    else:
        done = _rewrite(model, target, _scheme(options, mode, model, work), work)
        if not done.changed:
            raise _changed_nothing(mode)
        notes |= {"matrices": len(done.changed), "leftAlone": list(done.left)}
    if model.package.format is ModelFormat.GENAI:
        _share_words(model, work.target)
    made = write_package(work.target, model.package.model_copy(update={"edits": None}))
    _check_smaller(model, made, mode)
    return Outcome(made, notes | {"operators": _quantized_operators(made, mode, options.dtype)})


def _share_words(model: Model, target: Path) -> None:
    """Keep what a generative model has beside its graph: the configuration, tokens, the template of chats."""
    graphs = {model.weights.name, *external_files(load_graph(model.weights)), MANIFEST_FILE, REPORT_FILE, SUMS_FILE}
    for path in sorted(model.folder.iterdir()):
        if path.is_file() and path.name not in graphs:
            share_file(path, target / path.name)


def _rewrite(model: Model, target: Path, scheme: Scheme, work: Workplace) -> Rewritten:
    edits = model.waiting.edits if model.waiting else {}
    with place_to_write(work) as (folder, key):
        return rewrite(model.weights, folder / target.name, scheme, key=key, edits=edits)


def _fastest(options: Quantize, model: Model, work: Workplace) -> Outcome:
    """Return the mode whose rows take least time: static for convolutions, dynamic for products, as measured here."""
    made: dict[str, Outcome] = {}
    failed: dict[str, str] = {}
    for mode in _MEASURED_MODES:
        place = replace(work, target=work.scratch / mode, scratch=work.scratch / f"{mode}-scratch", unfinished=None)
        place.scratch.mkdir()
        try:
            made[mode] = _quantize(options, mode, model, place)
        except PassFailed as error:
            failed[mode] = str(error)
    if not made:
        raise PassFailed(f"quantize (auto) found no mode that works: {'; '.join(failed.values())}")
    ratios = {mode: latency_ratio(model, out.model, work.data, False, work.seed) for mode, out in made.items()}
    best = min(ratios, key=lambda mode: ratios[mode])
    shutil.move(made[best].model.folder, work.target)
    notes = made[best].notes | {"latencyRatios": {mode: round(ratio, 4) for mode, ratio in ratios.items()}}
    return Outcome(Model(work.target, made[best].model.package), notes | {"failedModes": failed})


def mode_of(options: Quantize) -> str:
    """Return the mode, also where none is named."""
    return options.mode or ("dynamic" if options.dtype == "int8" else "weights")


def _calibration(options: Quantize, work: Workplace) -> tuple[Dataset, int, bool]:
    assert options.calibration
    assert work.data
    return work.data, options.calibration.samples, bool(options.full_range)


def _scheme(options: Quantize, mode: str, model: Model, work: Workplace) -> Scheme:
    if options.dtype in _FLOATS:
        return _FLOATS[options.dtype]
    if mode == "static":
        return calibrated(model.weights, work.scratch, *_calibration(options, work))
    if mode == "dynamic":
        return DynamicInt8(FULL_CODES if options.full_range else COLUMN_CODES)
    return Blockwise(BITS[options.dtype], options.block_size or BLOCK_SIZE, bool(options.symmetric))


def _check_options(options: Quantize, mode: str, calibration: Dataset | None) -> None:
    known = (*BITS, *_FLOATS)
    if options.dtype not in known:
        raise PassFailed(f"quantize cannot make `{options.dtype}`; use one of {', '.join(known)}")
    if mode not in _MODES:
        raise PassFailed(f"quantize knows no mode `{mode}`; use one of {', '.join(_MODES)}")
    if mode != "weights" and options.dtype != "int8":
        raise PassFailed(f"quantize: only int8 has the mode {mode}; leave mode out for {options.dtype}")
    if mode in ("static", "auto") and calibration is None:
        raise PassFailed(
            f"quantize: mode {mode} needs data; add calibration with the uri of a data set, or use mode: dynamic"
        )


def _changed_nothing(mode: str) -> PassFailed:
    covered = "every operator that int8 has" if mode == "static" else "MatMul and Gemm with constant weights"
    other = "mode: dynamic" if mode == "static" else "mode: static, which covers convolutions"
    return PassFailed(f"quantize ({mode}) changed nothing: it covers {covered}; try {other}, or leave the pass out")


def _check_smaller(before: Model, after: Model, mode: str) -> None:
    small, large = after.size_bytes(), before.size_bytes()
    if small >= large:
        raise PassFailed(
            f"quantize ({mode}) gained nothing: {large} bytes before, {small} after; "
            "the weights it covers are too few: try the other mode or leave the pass out"
        )


def _quantized_operators(made: Model, mode: str, dtype: str) -> dict[str, int]:
    """Return how many operators work in fewer bits. Raises PassFailed where there are none and should be."""
    counts = {name: count for name, count in (count_operators(made) or {}).items() if name in _QUANTIZED}
    if not counts and dtype not in _FLOATS:
        raise _changed_nothing(mode)
    return counts


def _is_quantized(path: Path) -> bool:
    """Tell whether a graph has operators for fewer bits, or floats of 8 bits, which plain operators unpack."""
    graph = onnx.load(path, load_external_data=False).graph
    if any(tensor.data_type in _FLOAT8 for tensor in graph.initializer):
        return True
    return any(node.op_type in _QUANTIZED for node in graph.node)
