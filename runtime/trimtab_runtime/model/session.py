"""Load an artifact into onnxruntime, hold its session against model.yaml, and warm it up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
import yaml

from trimtab_api.errors import InvalidPackage, InvalidSpec
from trimtab_api.package import MANIFEST_FILE, ONNX_FILE, ModelPackage, Tensor
from trimtab_runtime.protocol.tensors import NUMPY_TYPES, Array

_ONNX_TYPES: Final = {
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
}


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model. `run` may be called from any thread."""

    package: ModelPackage
    session: Any

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute every output; rows in, rows out."""
        names = [item.name for item in self.package.outputs]
        return dict(zip(names, self.session.run(names, dict(feeds)), strict=True))


def load_model(folder: Path, threads: int) -> Model:
    """Load, check and warm up the artifact in a folder. Raises InvalidPackage naming what is wrong."""
    package = _read_package(folder)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait fight the event loop for a small pod's CPU.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(folder / ONNX_FILE), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common base for what it raises
        raise InvalidPackage(f"{ONNX_FILE} cannot be loaded: {error}") from error
    _compare("input", package.inputs, session.get_inputs())
    _compare("output", package.outputs, session.get_outputs())
    model = Model(package, session)
    _warm_up(model)
    return model


def _read_package(folder: Path) -> ModelPackage:
    try:
        return ModelPackage.parse(yaml.safe_load((folder / MANIFEST_FILE).read_text()))
    except (OSError, yaml.YAMLError, InvalidSpec) as error:
        raise InvalidPackage(f"{MANIFEST_FILE} cannot be read: {error}") from error


def _compare(role: str, declared: Sequence[Tensor], found: Sequence[Any]) -> None:
    actual = {item.name: _ONNX_TYPES.get(item.type, item.type) for item in found}
    for tensor in declared:
        if actual.get(tensor.name) != tensor.datatype:
            raise InvalidPackage(
                f"{role} {tensor.name} is {tensor.datatype} in {MANIFEST_FILE}; the model has {actual}"
            )
    if role == "input" and len(actual) != len(declared):
        raise InvalidPackage(f"the model has the inputs {list(actual)}; {MANIFEST_FILE} names {len(declared)} of them")


def _warm_up(model: Model) -> None:
    """Answer once: what the first call would pay for is paid before readiness, and a model that cannot run is found."""
    feeds = {item.name: _zeros(item) for item in model.package.inputs}
    try:
        model.run(feeds)
    except Exception as error:
        raise InvalidPackage(f"the model loads but cannot compute: {error}") from error


def _zeros(tensor: Tensor) -> Array:
    shape = tuple(axis if axis > 0 else 1 for axis in tensor.shape)
    return np.zeros(shape, dtype=NUMPY_TYPES[tensor.datatype])
