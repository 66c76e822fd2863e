"""The model package: what `model.yaml` says about a model, at its source and inside an artifact."""

import re
from enum import StrEnum
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, Final

from pydantic import Field, field_validator, model_validator

from trimtab_api.contract import Contract
from trimtab_api.report import BUILT_IN_METRICS, METRIC_PATTERN
from trimtab_api.spec import ModelFormat

MANIFEST_FILE: Final = "model.yaml"
REPORT_FILE: Final = "report.json"
SUMS_FILE: Final = "SHA256SUMS"
ONNX_FILE: Final = "model.onnx"
GENAI_FILE: Final = "genai_config.json"
CUSTOM_OPERATORS: Final = "custom_ops_library"  # in a GenAI configuration: a library that would be loaded
LITERT_FILE: Final = "model.tflite"
SAVED_MODEL_FOLDER: Final = "saved_model"
WEIGHTS_FILE: Final = "model.safetensors"
PROGRAM_FILE: Final = "model.pt2"
SCRIPT_FILE: Final = "model.pt"
STRUCTURE_FILE: Final = "structure.json"
EDITS_FILE: Final = "edits.json"
_BY_CUSTOM: Final = MappingProxyType(
    {
        ModelFormat.ONNX: ONNX_FILE,
        ModelFormat.GENAI: ONNX_FILE,
        ModelFormat.LITERT: LITERT_FILE,
        ModelFormat.TORCH_EXPORT: PROGRAM_FILE,
        ModelFormat.TORCHSCRIPT: SCRIPT_FILE,
    }
)
MOST_MODELS: Final = 64  # of a collection
_SERVED_NAME: Final = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$"  # a segment of a path
_VERSION: Final = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
_FOLDER: Final = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # a part of its path
_FILES: Final = (MANIFEST_FILE, REPORT_FILE, SUMS_FILE)
_OF_A_COLLECTION: Final = frozenset({"name", "format", "models", "inputs", "outputs"})
MOST_METRICS: Final = 8  # of a package; more would not fit into a termination message


class Datatype(StrEnum):
    """Tensor datatypes of the Open Inference Protocol."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"


class Tensor(Contract):
    """Name, datatype and shape of an input or output; -1 stands for any length, and the first axis is the batch."""

    name: str
    datatype: Datatype = Datatype.FP32
    shape: tuple[int, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _batch_first(self) -> "Tensor":
        if self.shape[0] != -1:
            raise ValueError(f"the first axis of {self.name} is the batch and has to be -1, not {self.shape[0]}")
        return self


class Member(Contract):
    """A model of a collection: how callers name it, and its folder, a package of its own.

    Without a version it has that of the server. Of several versions, the first is for callers who ask for none.
    """

    name: str = Field(pattern=_SERVED_NAME)
    folder: str
    version: str | None = Field(default=None, pattern=_VERSION)

    @field_validator("folder")
    @classmethod
    def _within(cls, folder: str) -> str:
        parts = PurePosixPath(folder).parts
        if not parts or not all(re.fullmatch(_FOLDER, part) for part in parts) or parts[0] in _FILES:
            raise ValueError(
                f"`{folder}` is no folder of the package; name one within it, such as models/first, by letters, "
                "digits, dots, - and _"
            )
        return "/".join(parts)

    @field_validator("version", mode="before")
    @classmethod
    def _as_text(cls, version: Any) -> Any:
        return str(version) if type(version) is int else version  # YAML reads 2 as a number


class ModelPackage(Contract):
    """The content of `model.yaml`.

    `entrypoint` (`module:callable`, PyTorch only) builds the `nn.Module` without weights; `weights` is a safetensors
    file (PyTorch), or the file that is the whole model, relative to the package: ONNX (model.onnx), LiteRT
    (model.tflite), torch.export (model.pt2), TorchScript (model.pt). `labels` names the classes of the first output.
    `structure` (PyTorch only) is the file that tells how pruning changed the module that the entrypoint builds.
    `metrics` (PyTorch only) maps names to `module:callable`, which get all outputs by name, and the labels.
    `edits` is the file that tells what becomes of the weights when they are read: a pass writes it where the next one
    makes the change with its own. What is served has none.
    `models` (a collection only, which has no inputs and outputs of its own) are served by one process.
    """

    name: str
    format: ModelFormat
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    entrypoint: str | None = None
    weights: str | None = None
    labels: tuple[str, ...] | None = None
    structure: str | None = None
    metrics: dict[str, str] | None = None
    edits: str | None = None
    models: tuple[Member, ...] | None = Field(default=None, min_length=1, max_length=MOST_MODELS)

    @property
    def weights_file(self) -> str:
        """Return the file with the weights; where none is named, the one that the format is written to by custom."""
        return self.weights or _BY_CUSTOM.get(self.format, WEIGHTS_FILE)

    @model_validator(mode="after")
    def _tensors_or_models(self) -> "ModelPackage":
        is_collection = self.format is ModelFormat.COLLECTION
        if is_collection != (self.models is not None):
            raise ValueError("a collection, and nothing else, has `models`: a list of {name, version, folder}")
        for name, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            if not tensors and not is_collection:
                raise ValueError(f"{name}: a model has at least one, as {{name, datatype, shape}}")
        if is_collection and (self.inputs or self.outputs or set(self.to_dict()) - _OF_A_COLLECTION):
            raise ValueError("a collection has a name and `models`; all else stands in the model.yaml of each folder")
        return self

    @model_validator(mode="after")
    def _models_apart(self) -> "ModelPackage":
        served = [(item.name, item.version) for item in self.models or ()]
        for name, version in served:
            if served.count((name, version)) > 1 or (version is not None and (name, None) in served):
                raise ValueError(f"the models named {name} need versions that differ")
        folders = [PurePosixPath(item.folder) for item in self.models or ()]
        for folder in folders:
            if folders.count(folder) > 1 or any(folder in other.parents for other in folders):
                raise ValueError(f"`{folder}` holds more than one model; put them side by side, each in its own folder")
        return self

    @model_validator(mode="after")
    def _entrypoint_for_pytorch(self) -> "ModelPackage":
        if self.format is ModelFormat.PYTORCH and not (self.entrypoint and self.weights):
            raise ValueError("a pytorch package needs `entrypoint: module:callable` and `weights: model.safetensors`")
        return self

    @model_validator(mode="after")
    def _metrics_of_its_own(self) -> "ModelPackage":
        names = self.metrics or {}
        if names and self.format is not ModelFormat.PYTORCH:
            raise ValueError("only a pytorch package has code, and so `metrics`; remove them")
        if len(names) > MOST_METRICS:
            raise ValueError(f"a package may have {MOST_METRICS} metrics of its own, not {len(names)}")
        for name in names:
            if name in BUILT_IN_METRICS:
                raise ValueError(f"the metric {name} is built in; give your own another name")
            if not re.fullmatch(METRIC_PATTERN, name):
                raise ValueError(f"the metric {name!r} needs a name like f1 or wordErrorRate: {METRIC_PATTERN}")
        return self


def signature_name(name: str) -> str:
    """Return the name that a LiteRT or SavedModel signature has for a tensor: TensorFlow takes identifiers only."""
    safe = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return safe if safe[:1].isalpha() else f"arg_{safe}"
