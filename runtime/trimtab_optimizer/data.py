"""Data sets: arrays named like the inputs of the model and, for most measures, `label`.

A data set is a package too: `data.npz` (never pickled) or one safetensors file.
"""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from trimtab_api.errors import InvalidData
from trimtab_api.package import ModelPackage, Tensor
from trimtab_optimizer.labels import LABEL, Labels, check_that_labels_tell, read_labels
from trimtab_optimizer.tensors import dtype_of, fits


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows that fit a model. `labels` are as labels.py says, or None where the data has none."""

    inputs: dict[str, NDArray[Any]]
    labels: Labels | None

    @property
    def rows(self) -> int:
        """Return how many rows there are; at least one."""
        return len(next(iter(self.inputs.values())))

    def batches(self, size: int, limit: int | None = None) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the rows in order, `size` at a time and `limit` in all."""
        end = min(self.rows, limit or self.rows)
        for start in range(0, end, size):
            yield {name: values[start : min(start + size, end)] for name, values in self.inputs.items()}

    def labels_of(self, size: int) -> Iterator[Labels | None]:
        """Yield the labels of each of the batches."""
        for start in range(0, self.rows, size):
            yield None if self.labels is None else self.labels[start : start + size]


def load_data(folder: Path, package: ModelPackage, evaluation: bool) -> Dataset:
    """Read a data set and hold it against a model. Raises InvalidData saying what was expected.

    Data for an `evaluation` may have no labels, but where it has some, they have to tell a good model from a bad one.
    """
    arrays = _read(folder)
    inputs = {tensor.name: _input(arrays, tensor) for tensor in package.inputs}
    _check_rows({**inputs, **({LABEL: arrays[LABEL]} if LABEL in arrays else {})})
    labels = read_labels(arrays[LABEL], package) if LABEL in arrays else None
    if evaluation and labels is not None:
        check_that_labels_tell(labels, package)
    return Dataset(inputs, labels)


def _read(folder: Path) -> dict[str, NDArray[Any]]:
    found = sorted([*folder.rglob("*.npz"), *folder.rglob("*.safetensors")])
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise InvalidData(f"a data package holds one data.npz or one .safetensors file, found: {names}")
    try:
        if found[0].suffix == ".safetensors":
            return safetensors.numpy.load_file(found[0])
        with np.load(found[0], allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, SafetensorError) as error:
        raise InvalidData(f"{found[0].name} cannot be read ({error}); write plain arrays, no objects") from error


def _input(arrays: dict[str, NDArray[Any]], tensor: Tensor) -> NDArray[Any]:
    if tensor.name not in arrays:
        raise InvalidData(f"the data has no array `{tensor.name}` (found: {_names(arrays)}); name it like the input")
    values, dtype = arrays[tensor.name], dtype_of(tensor)
    if values.dtype != dtype:
        raise InvalidData(f"`{tensor.name}` is {values.dtype}, expected {dtype}; convert it with .astype('{dtype}')")
    if not fits(values.shape, tensor.shape):
        raise InvalidData(f"`{tensor.name}` has the shape {list(values.shape)}, expected {list(tensor.shape)}")
    if np.issubdtype(dtype, np.floating) and not np.isfinite(values).all():
        raise InvalidData(f"`{tensor.name}` holds values that are no numbers (NaN or infinite); clean the data")
    return values


def _check_rows(arrays: dict[str, NDArray[Any]]) -> None:
    rows = {name: values.shape[0] if values.ndim else 0 for name, values in arrays.items()}
    if len(set(rows.values())) != 1:
        raise InvalidData(f"the arrays differ in their number of rows: {rows}")
    if not any(rows.values()):
        raise InvalidData("the data is empty; give at least one row")


def _names(arrays: dict[str, NDArray[Any]]) -> str:
    return ", ".join(sorted(arrays)) or "none"
