"""quantize on a LiteRT model, by the recipes of LiteRT's own quantizer; callers go on sending and getting floats.

| dtype | mode    | what changes                                                      | what for             |
|-------|---------|-------------------------------------------------------------------|----------------------|
| int8  | dynamic | products and convolutions; activations are measured at each call  | speed                |
| int8  | static  | everything; ranges come from calibration data                     | speed                |
| int8  | weights | weights, turned into float32 when the model is loaded             | a smaller file       |
| int4  |         | as int8 dynamic, with weights of 4 bits                           | the smallest file    |

int2 is not among them: its recipes were tried, and either do not load or answer at random (docs/adr/0008).
"""

import json
import shutil
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np

from trimtab_api.errors import PassFailed
from trimtab_api.package import LITERT_FILE, signature_name
from trimtab_api.spec import Quantize
from trimtab_optimizer.data import Dataset
from trimtab_optimizer.litert import quantizer_script
from trimtab_optimizer.litert.file import count_litert_operators
from trimtab_optimizer.litert.tools import run_tool
from trimtab_optimizer.package import Model, write_package
from trimtab_optimizer.passes.contract import Outcome, Workplace

_RECIPES: Final = MappingProxyType(
    {
        ("int8", "dynamic"): "dynamic_wi8_afp32",
        ("int8", "static"): "static_wi8_ai8",
        ("int8", "weights"): "weight_only_wi8_afp32",
        ("int4", "weights"): "dynamic_wi4_afp32",
    }
)
_STORAGE: Final = "weight_only_wi8_afp32"


def why_not_on_litert(options: Quantize) -> str | None:
    """Return what LiteRT cannot do of what is asked for, with the mend; None where it can do all."""
    if options.dtype not in {dtype for dtype, _ in _RECIPES}:
        return f"LiteRT computes in int8 and int4, not in {options.dtype}; set one of these, or convert: {{to: onnx}}"
    if options.mode == "auto":
        return "mode auto compares kernels of ONNX Runtime; set mode dynamic or static, or convert: {to: onnx}"
    if options.block_size or options.symmetric is not None or options.full_range is not None:
        return "LiteRT has one scale for each channel and no other choice; remove blockSize, symmetric and fullRange"
    return None


def quantize_litert(options: Quantize, mode: str, model: Model, work: Workplace) -> Outcome:
    """Return the LiteRT model in fewer bits. Raises PassFailed where that is impossible or gains nothing."""
    reason = why_not_on_litert(options)
    if reason:
        raise PassFailed(f"quantize: {reason}")
    recipe = _RECIPES[options.dtype, mode]
    samples = options.calibration.samples if options.calibration else 0
    made = _quantized(model, recipe, work, samples)
    if made.size_bytes() >= model.size_bytes():
        sizes = f"{model.size_bytes()} bytes before, {made.size_bytes()} after"
        raise PassFailed(f"quantize ({mode}) gained nothing: {sizes}; the weights it covers are too few: leave it out")
    gain = "storage" if recipe == _STORAGE else "speed"
    operators = count_litert_operators(made.weights)
    return Outcome(made, {"mode": mode, "gain": gain, "recipe": recipe, "operators": operators})


def _quantized(model: Model, recipe: str, work: Workplace, samples: int) -> Model:
    place = work.scratch / "quantizer"
    place.mkdir()
    shutil.copyfile(model.weights, place / LITERT_FILE)
    names = {tensor.name: signature_name(tensor.name) for tensor in model.package.inputs}
    (place / "request.json").write_text(json.dumps({"recipe": recipe, "signature": names}))
    if work.data:
        _write_rows(work.data, samples, place / "rows.npz")
    run_tool(quantizer_script(), place, f"quantize ({recipe})")
    work.target.mkdir(parents=True)
    shutil.move(place / "quantized.tflite", work.target / LITERT_FILE)
    return write_package(work.target, model.package.model_copy(update={"weights": LITERT_FILE}))


def _write_rows(data: Dataset, samples: int, path: Path) -> None:
    rows = next(data.batches(samples))
    np.savez(path, **rows)  # type: ignore[arg-type]
