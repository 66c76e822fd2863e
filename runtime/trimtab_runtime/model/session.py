"""Load an artifact into what runs its format, hold it against model.yaml, and warm it up.

The backend is asked what it takes, and a warm-up shows what it gives: shapes of outputs in a file are often symbols,
and only a run of two rows tells whether the first axis is the batch.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np

from trimtab_api.errors import InvalidPackage
from trimtab_api.package import LITERT_FILE, MANIFEST_FILE, ONNX_FILE, ModelPackage, Tensor
from trimtab_api.spec import ModelFormat
from trimtab_runtime.model.backend import Backend, Found
from trimtab_runtime.model.litert import LitertBackend
from trimtab_runtime.model.manifest import read_manifest
from trimtab_runtime.model.onnx import OnnxBackend
from trimtab_runtime.model.sums import verified
from trimtab_runtime.protocol.tensors import NUMPY_TYPES, Array, datatype_of

# Lengths tried for axes that are free beside the batch: rows of length 1 are too much alike to tell anything of a
# model, a convolution may not fit into 16, and 224 takes its time.
_FREE_LENGTHS: Final = (16, 1, 64, 224)
_WARM_UP_ROWS: Final = (1, 2)

_LOADED: Final = (ModelFormat.ONNX, ModelFormat.LITERT)

_Fill = Callable[[np.random.Generator, np.dtype[Any], tuple[int, ...]], Array]


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model. `run` may be called from any thread; `make_rows` makes up as many rows as it is told."""

    package: ModelPackage
    backend: Backend
    make_rows: Callable[[int], dict[str, Array]]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute every output; rows in, rows out."""
        names = [item.name for item in self.package.outputs]
        return dict(zip(names, self.backend.run(names, feeds), strict=True))


def load_model(folder: Path, threads: int) -> Model:
    """Load, check and warm up the package in a folder. Raises InvalidPackage naming what is wrong."""
    with verified(folder):
        package = read_manifest(folder)
        if package.format not in _LOADED:
            raise InvalidPackage(f"{MANIFEST_FILE} says format {package.format}; {' and '.join(_LOADED)} can be served")
        backend = _open(folder, package, threads)
        _compare("input", package.inputs, backend.inputs, backend.file)
        _compare("output", package.outputs, backend.outputs, backend.file)
        model = _warmed_up(package, backend)
    _give_memory_back()
    return model


def _give_memory_back() -> None:
    """Return to the system what loading took, for sparse weights several times their size: glibc would keep it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _open(folder: Path, package: ModelPackage, threads: int) -> Backend:
    if package.format is ModelFormat.LITERT:
        return LitertBackend(folder / LITERT_FILE, package, threads)
    return OnnxBackend(folder / ONNX_FILE, threads)


def _compare(role: str, declared: Sequence[Tensor], found: Sequence[Found], file: str) -> None:
    actual = {item.name: item for item in found}
    missing = [item.name for item in declared if item.name not in actual]
    if missing or (role == "input" and len(actual) != len(declared)):
        names = [item.name for item in declared]
        raise InvalidPackage(f"{MANIFEST_FILE} names the {role}s {names}; {file} has {list(actual)}")
    for tensor in declared:
        _compare_one(role, tensor, actual[tensor.name], file)


def _compare_one(role: str, tensor: Tensor, found: Found, file: str) -> None:
    if found.datatype != tensor.datatype or not (found.shape is None or _agrees(role, tensor.shape, found.shape)):
        raise InvalidPackage(
            f"{role} {tensor.name} is {tensor.datatype} {list(tensor.shape)} in {MANIFEST_FILE}, but {found.datatype} "
            f"{list(found.shape or ())} in {file} (-1: any length); correct {MANIFEST_FILE} or export the model again"
        )


def _agrees(role: str, declared: Sequence[int], found: Sequence[int]) -> bool:
    """Compare axes. A fixed axis of an input has to be declared: callers are promised what model.yaml says.

    Of an output only the number of axes and the fixed ones are compared; the warm-up sees the rest.
    """
    if len(declared) != len(found):
        return False
    loose = role == "output"
    return all(axis in (-1, wanted) or (loose and wanted == -1) for wanted, axis in zip(declared, found, strict=True))


def _warmed_up(package: ModelPackage, backend: Backend) -> Model:
    """Answer one row and two: what the first call would pay for is paid, and a model that cannot run is found.

    Rows are made up; where the model cannot take those (numbers of words beyond its own), they are zeros.
    """
    lengths = _FREE_LENGTHS if any(-1 in item.shape[1:] for item in package.inputs) else _FREE_LENGTHS[:1]
    for length, fill in product(lengths, (_random, _zeros)):
        model = Model(package, backend, partial(_made_up, package, length, fill))
        try:
            for rows in _WARM_UP_ROWS:
                _check_outputs(model, model.run(model.make_rows(rows)), rows)
            return model
        except InvalidPackage:
            raise
        except Exception as error:  # neither runtime has a common base for what it raises
            failure = error
    raise InvalidPackage(f"the model loads but cannot compute {rows} rows of zeros: {failure}") from failure


def _made_up(package: ModelPackage, length: int, fill: _Fill, rows: int) -> dict[str, Array]:
    random = np.random.default_rng(0)
    shapes = {
        tensor.name: (rows, *(length if axis == -1 else axis for axis in tensor.shape[1:])) for tensor in package.inputs
    }
    return {item.name: fill(random, NUMPY_TYPES[item.datatype], shapes[item.name]) for item in package.inputs}


def _random(random: np.random.Generator, kind: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Return floats around 0, and whole numbers that are 0 or 1, as more may not be in a vocabulary.

    Of those some rows are 0 alone and some 1 alone: rows of both, by the same words, show nothing of their company.
    """
    if kind.kind == "f":
        return random.standard_normal(shape).astype(kind)
    values = random.integers(0, 2, shape)
    values[0::3], values[1::3] = 0, 1
    return np.where(values, "a", "b").astype(kind) if kind.kind == "O" else values.astype(kind)


def _zeros(_: np.random.Generator, kind: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    return np.full(shape, "", kind) if kind.kind == "O" else np.zeros(shape, kind)


def _check_outputs(model: Model, outputs: Mapping[str, Array], rows: int) -> None:
    for tensor in model.package.outputs:
        array = outputs[tensor.name]
        wanted = (rows, *tensor.shape[1:])
        fits = array.ndim == len(wanted) and all(a in (-1, b) for a, b in zip(wanted, array.shape, strict=True))
        if not fits or datatype_of(array) != tensor.datatype:
            given = f"{datatype_of(array)} {list(array.shape)} for {rows} rows"
            raise InvalidPackage(
                f"output {tensor.name} is {tensor.datatype} {list(tensor.shape)} in {MANIFEST_FILE}, but "
                f"{model.backend.file} gives {given}; correct {MANIFEST_FILE} or export the model again"
            )
