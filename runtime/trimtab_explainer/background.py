"""Rows that stand in for what is hidden: a few of a data package, as an evaluation has them."""

import zipfile
from pathlib import Path

import numpy as np

from trimtab_api.errors import InvalidData
from trimtab_api.package import ModelPackage
from trimtab_runtime.protocol.tensors import NUMPY_TYPES, Array


def read_background(folder: Path | None, package: ModelPackage, rows: int) -> dict[str, Array]:
    """Return some rows of each input that the data has, always the same; {} without a folder. Raises InvalidData."""
    if folder is None:
        return {}
    found = sorted(folder.rglob("*.npz"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise InvalidData(f"a background is a folder with one .npz file, found: {names}")
    try:
        with np.load(found[0], allow_pickle=False) as archive:
            arrays = {tensor.name: archive[tensor.name] for tensor in package.inputs if tensor.name in archive.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise InvalidData(f"{found[0].name} cannot be read ({error}); write plain arrays, no objects") from error
    wanted = {tensor.name: NUMPY_TYPES[tensor.datatype] for tensor in package.inputs}
    return {name: _some(array, rows).astype(wanted[name]) for name, array in arrays.items()}


def _some(array: Array, rows: int) -> Array:
    chosen = np.random.default_rng(0).permutation(len(array))[:rows]
    return array[np.sort(chosen)]
