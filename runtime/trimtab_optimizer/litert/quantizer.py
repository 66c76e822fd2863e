"""The process that stores a LiteRT file in fewer bits. Run by file: it imports nothing of ours.

python quantizer.py FOLDER. In FOLDER are model.tflite, request.json and, for a recipe with fixed ranges of activations,
rows.npz; quantized.tflite is put beside them.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
from ai_edge_quantizer import quantizer, recipe

_ENDS: Final = ("INPUT", "OUTPUT")


def main(folder: Path) -> None:
    """Quantize what lies in a folder."""
    request = json.loads((folder / "request.json").read_text())
    made = quantizer.Quantizer(str(folder / "model.tflite"), getattr(recipe, request["recipe"])())
    for end in _ENDS:  # callers go on sending and getting floats
        name = getattr(recipe.TFLOperationName, end)
        made.update_quantization_recipe(regex=".*", operation_name=name, algorithm_key=recipe.AlgorithmName.NO_QUANTIZE)
    ranges = made.calibrate(_rows(folder, request["signature"])) if made.need_calibration else None
    made.quantize(ranges).export_model(str(folder / "quantized.tflite"), overwrite=True)


def _rows(folder: Path, names: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Return calibration rows one by one, each input under the name that it has in the signature."""
    with np.load(folder / "rows.npz", allow_pickle=False) as archive:
        values = {names[name]: archive[name] for name in archive.files}
    count = len(next(iter(values.values())))
    return {"serving_default": [{name: array[n : n + 1] for name, array in values.items()} for n in range(count)]}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
