"""ONNX files, in ONNX Runtime."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from trimtab_api.errors import InvalidPackage
from trimtab_runtime.model.backend import Found
from trimtab_runtime.protocol.tensors import Array

_DATATYPES: Final = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class OnnxBackend:
    """Raises InvalidPackage for a file that cannot be loaded."""

    platform: str = "onnx_onnxv1"

    def __init__(self, file: Path, threads: int) -> None:
        self.file: str = file.name
        self._session = open_session(file, threads)
        self.inputs: tuple[Found, ...] = _found(self._session.get_inputs(), of_unknown_rank=False)
        # onnxruntime shows an output of unknown rank without axes
        self.outputs: tuple[Found, ...] = _found(self._session.get_outputs(), of_unknown_rank=True)

    def run(self, names: list[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Return outputs by name."""
        answers: list[Array] = self._session.run(names, dict(feeds))
        return answers


def _found(values: Iterable[Any], of_unknown_rank: bool) -> tuple[Found, ...]:
    return tuple(
        Found(value.name, _DATATYPES.get(value.type, value.type), _shape(value.shape, of_unknown_rank))
        for value in values
    )


def _shape(axes: list[Any], of_unknown_rank: bool) -> tuple[int, ...] | None:
    if not axes and of_unknown_rank:
        return None
    return tuple(axis if isinstance(axis, int) and axis >= 0 else -1 for axis in axes)


def open_session(file: Path, threads: int, spins: bool = False) -> Any:
    """Load a graph. Threads that spin while they wait are for graphs that run all the time.

    Raises InvalidPackage where it cannot be loaded.
    """
    # Since 1.29 the official Linux builds report sessions to their maker unless this is set before the library is
    # loaded (Privacy.md of the package); to switch it off afterwards is too late for the first event.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # a failure reaches us as an exception; its text need not be on stderr as well
    # In a small pod they fight the event loop for its CPU.
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spins)))
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common base for what it raises
        raise InvalidPackage(f"{file.name} cannot be loaded: {error}") from error
