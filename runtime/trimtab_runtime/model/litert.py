"""LiteRT files, in LiteRT's interpreter.

An interpreter is fitted to one number of rows. Fitting it to another takes some 20 microseconds (a small model), since
packed weights stay, so one interpreter serves all batches: a second one for each size would hold its weights again.
"""

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np

from trimtab_api.errors import InvalidPackage
from trimtab_api.package import ModelPackage, signature_name
from trimtab_runtime.model.backend import Found
from trimtab_runtime.protocol.tensors import Array

_DATATYPES: Final = {
    np.bool_: "BOOL",
    np.uint8: "UINT8",
    np.uint16: "UINT16",
    np.uint32: "UINT32",
    np.uint64: "UINT64",
    np.int8: "INT8",
    np.int16: "INT16",
    np.int32: "INT32",
    np.int64: "INT64",
    np.float16: "FP16",
    np.float32: "FP32",
    np.float64: "FP64",
}


class LitertBackend:
    """Raises InvalidPackage for a file that cannot be loaded. Names are those of model.yaml, not of the signature."""

    platform: str = "litert_tflite"

    def __init__(self, file: Path, package: ModelPackage, threads: int) -> None:
        self.file: str = file.name
        self._interpreter = _open_interpreter(file, threads)
        known = {signature_name(tensor.name): tensor.name for tensor in (*package.inputs, *package.outputs)}
        inputs, outputs = _signature(self._interpreter, file)
        self._inputs = {known.get(name, name): int(found["index"]) for name, found in inputs.items()}
        self._outputs = {known.get(name, name): int(found["index"]) for name, found in outputs.items()}
        self.inputs: tuple[Found, ...] = _found(inputs, known)
        self.outputs: tuple[Found, ...] = _found(outputs, known)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._lock = Lock()

    def run(self, names: list[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Return outputs by name."""
        with self._lock:
            self._fit({name: array.shape for name, array in feeds.items()})
            for name, array in feeds.items():
                self._interpreter.set_tensor(self._inputs[name], np.ascontiguousarray(array))
            self._interpreter.invoke()
            return [self._interpreter.get_tensor(self._outputs[name]) for name in names]  # copies

    def _fit(self, shapes: dict[str, tuple[int, ...]]) -> None:
        if shapes == self._shapes:
            return
        self._shapes = {}  # a fitting that fails leaves the interpreter as it may be: the next run fits it again
        for name, shape in shapes.items():
            self._interpreter.resize_tensor_input(self._inputs[name], shape, strict=False)
        self._interpreter.allocate_tensors()
        self._shapes = shapes


def _open_interpreter(file: Path, threads: int) -> Any:
    from ai_edge_litert.interpreter import Interpreter  # late: servers of ONNX models can do without its memory

    try:
        return Interpreter(model_path=str(file), num_threads=threads)
    except (ValueError, RuntimeError) as error:
        raise InvalidPackage(f"{file.name} cannot be loaded: {' '.join(str(error).split())}") from error


def _signature(interpreter: Any, file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the details of inputs and outputs by their names in the one signature."""
    names = list(interpreter.get_signature_list())
    if len(names) != 1:
        raise InvalidPackage(f"{file.name} has to have one signature, found: {', '.join(names) or 'none'}")
    runner = interpreter.get_signature_runner(names[0])
    return runner.get_input_details(), runner.get_output_details()


def _found(details: Mapping[str, Any], known: Mapping[str, str]) -> tuple[Found, ...]:
    return tuple(
        Found(
            known.get(name, name),
            _DATATYPES.get(found["dtype"], str(found["dtype"])),
            tuple(int(axis) for axis in found["shape_signature"]),
        )
        for name, found in details.items()
    )
