"""Run a model, whatever made it: one protocol, so that source and result are measured by the same code."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from trimtab_api.errors import InvalidData, InvalidPackage, TrimtabError
from trimtab_api.package import GENAI_FILE, ModelPackage
from trimtab_api.spec import ModelFormat
from trimtab_optimizer.importers.pytorch import load_module, ordered_outputs
from trimtab_optimizer.litert.file import LitertFile
from trimtab_optimizer.package import Model
from trimtab_optimizer.tensors import Arrays

_POSITIONS = "position_ids"
_NO_MEMORY = ("bad_alloc", "allocate memory", "bad allocation")


class Predictor(Protocol):
    """Computes all outputs for a batch of rows, in the order of model.yaml."""

    def predict(self, inputs: Arrays) -> list[NDArray[Any]]:
        """Return one array per output, first axis the rows."""


class OnnxPredictor:
    """Runs an ONNX file in ONNX Runtime on the CPU; `threads` 0 stands for all."""

    def __init__(self, path: Path, package: ModelPackage, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has no public base class of its errors
            if any(word in str(error) for word in _NO_MEMORY):
                raise MemoryError(str(error)) from error
            raise InvalidPackage(f"ONNX Runtime cannot load {path.name}: {error}") from error
        self._outputs = [tensor.name for tensor in package.outputs]

    def predict(self, inputs: Arrays) -> list[NDArray[Any]]:
        """Return one array per output."""
        with _computing():
            return [np.asarray(value) for value in self._session.run(self._outputs, dict(inputs))]


class GenaiPredictor(OnnxPredictor):
    """Runs a decoder on whole rows, as if it had read nothing before. Rows may be padded at their end."""

    def __init__(self, path: Path, package: ModelPackage, threads: int = 1) -> None:
        super().__init__(path, package, threads)
        decoder = json.loads((path.parent / GENAI_FILE).read_bytes())["model"]["decoder"]
        self._nothing = (int(decoder["num_key_value_heads"]), 0, int(decoder["head_size"]))  # a cache without tokens
        kinds = {item.name: item.type for item in self._session.get_inputs()}
        patterns = (decoder["inputs"]["past_key_names"], decoder["inputs"]["past_value_names"])
        pasts = {pattern % layer for pattern in patterns for layer in range(int(decoder["num_hidden_layers"]))}
        self._pasts = {
            name: np.dtype(np.float16 if "float16" in kinds[name] else np.float32) for name in pasts & set(kinds)
        }
        self._takes_positions = _POSITIONS in kinds

    def predict(self, inputs: Arrays) -> list[NDArray[Any]]:
        """Return one array per output; what is said of tokens that the mask hides means nothing."""
        rows, tokens = next(iter(inputs.values())).shape
        nothing = {name: np.zeros((rows, *self._nothing), kind) for name, kind in self._pasts.items()}
        positions = {_POSITIONS: np.tile(np.arange(tokens), (rows, 1))} if self._takes_positions else {}
        return super().predict({**inputs, **nothing, **positions})


class TorchPredictor:
    """Runs the module of a PyTorch package."""

    def __init__(self, model: Model, allow_pickle: bool) -> None:
        self._module = load_module(model, allow_pickle)
        self._package = model.package

    def predict(self, inputs: Arrays) -> list[NDArray[Any]]:
        """Return one array per output."""
        rows = [torch.from_numpy(np.ascontiguousarray(inputs[tensor.name])) for tensor in self._package.inputs]
        with _computing(), torch.inference_mode():
            return [value.numpy() for value in ordered_outputs(self._module(*rows), self._package)]


class LitertPredictor:
    """Runs a LiteRT file on the CPU."""

    def __init__(self, path: Path, package: ModelPackage, threads: int = 1) -> None:
        self._file = LitertFile(path, package, threads)

    def predict(self, inputs: Arrays) -> list[NDArray[Any]]:
        """Return one array per output."""
        with _computing():
            return self._file.run(inputs)


def predictor_of(model: Model, allow_pickle: bool, threads: int = 1) -> Predictor:
    """Return what runs a model. Raises InvalidPackage where it cannot be loaded."""
    if model.package.format is ModelFormat.PYTORCH:
        return TorchPredictor(model, allow_pickle)
    if model.package.format is ModelFormat.LITERT:
        return LitertPredictor(model.weights, model.package, threads)
    if model.package.format is ModelFormat.GENAI:
        return GenaiPredictor(model.weights, model.package, threads)
    return OnnxPredictor(model.weights, model.package, threads)


@contextmanager
def _computing() -> Iterator[None]:
    """Turn what a model raises on rows that have the right form into InvalidData, with both sides named."""
    try:
        yield
    except TrimtabError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        raise InvalidData(f"the model cannot compute rows of the data ({said}); check its values against it") from error


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
