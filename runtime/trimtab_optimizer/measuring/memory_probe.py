"""The process that memory.py starts: imports what a model needs, notes the peak, loads the model, answers one batch.

python -m trimtab_optimizer.measuring.memory_probe FOLDER ROWS.npz ANSWER [--allow-pickle]
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from trimtab_api.spec import ModelFormat
from trimtab_optimizer.litert.file import LitertFile
from trimtab_optimizer.package import Model, load_package


def main(folder: str, rows: str, answer: str, *options: str) -> None:
    """Write how many bytes the peak grew to a file."""
    model = load_package(Path(folder))
    with np.load(rows, allow_pickle=False) as archive:
        inputs = {name: archive[name] for name in archive.files}
    run = _runner(model, "--allow-pickle" in options)
    before = peak_bytes()
    run(model, inputs)
    Path(answer).write_text(str(max(0, peak_bytes() - before)))


def _runner(model: Model, allow_pickle: bool) -> Any:
    if model.package.format is ModelFormat.ONNX:
        return _run_onnx
    return _prepare_litert() if model.package.format is ModelFormat.LITERT else _prepare_module(model, allow_pickle)


def _prepare_litert() -> Any:
    import ai_edge_litert.interpreter  # noqa: F401 - what comes with it is not the model's

    def run(model: Model, inputs: dict[str, NDArray[Any]]) -> None:
        LitertFile(model.weights, model.package).run(inputs)

    return run


def _run_onnx(model: Model, inputs: dict[str, NDArray[Any]]) -> None:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    ort.InferenceSession(str(model.weights), options, providers=["CPUExecutionProvider"]).run(None, inputs)


def _prepare_module(model: Model, allow_pickle: bool) -> Any:
    from trimtab_optimizer.importers.programs import ENTRYPOINT
    from trimtab_optimizer.predict import one_thread, predictor_of  # late: an ONNX model can do without torch

    if model.package.entrypoint == ENTRYPOINT:  # what reads programs is no part of them
        importlib.import_module("trimtab_optimizer.importers.programs.layout")

    def run(model: Model, inputs: dict[str, NDArray[Any]]) -> None:
        with one_thread():
            predictor_of(model, allow_pickle).predict(inputs)

    return run


def peak_bytes() -> int:
    """Return the most that this process held so far."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main(*sys.argv[1:])
