"""Rows that stand in for what is hidden: a few of a data package, as an evaluation has them.

Data may be larger than the memory of an explainer, so the rows are taken out of the file and the rest is not held.
"""

import zipfile
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import safetensors

from trimtab_api.errors import InvalidData
from trimtab_api.package import ModelPackage
from trimtab_runtime.protocol.tensors import NUMPY_TYPES, Array

_CHUNK: Final = 1 << 20


def read_background(folder: Path | None, package: ModelPackage, rows: int) -> dict[str, Array]:
    """Return some rows of each input that the data has, always the same; {} without a folder. Raises InvalidData."""
    if folder is None:
        return {}
    found = sorted([*folder.rglob("*.npz"), *folder.rglob("*.safetensors")])
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise InvalidData(f"a background is a folder with one .npz or .safetensors file, found: {names}")
    wanted = {tensor.name: NUMPY_TYPES[tensor.datatype] for tensor in package.inputs}
    read = _of_safetensors if found[0].suffix == ".safetensors" else _of_npz
    try:
        return {name: array.astype(wanted[name]) for name, array in read(found[0], set(wanted), rows).items()}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
        raise InvalidData(f"{found[0].name} cannot be read ({error}); write plain arrays, no objects") from error


def _of_safetensors(file: Path, wanted: set[str], rows: int) -> dict[str, Array]:
    with safetensors.safe_open(file, framework="np") as tensors:
        found = {}
        for name in wanted & set(tensors.keys()):
            part = tensors.get_slice(name)
            found[name] = np.concatenate([part[at : at + 1] for at in _chosen(part.get_shape()[0], rows)])
        return found


def _of_npz(file: Path, wanted: set[str], rows: int) -> dict[str, Array]:
    with zipfile.ZipFile(file) as archive:
        names = {name: f"{name}.npy" for name in wanted if f"{name}.npy" in archive.namelist()}
        found = {}
        for name, member in names.items():
            with archive.open(member) as content:
                found[name] = _some_rows(content, rows)
        return found


def _some_rows(content: IO[bytes], rows: int) -> Array:
    """Read some rows of an array in numpy's format (numpy.lib.format), and past the others."""
    version = np.lib.format.read_magic(content)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, kind = read_header(content)
    if kind.hasobject or is_fortran or not shape:
        raise ValueError("an array of objects, in columns, or of no axis")
    size = int(np.prod(shape[1:], dtype=np.int64)) * kind.itemsize
    found, at = [], 0
    for row in _chosen(shape[0], rows):
        _skip(content, (row - at) * size)
        found.append(np.frombuffer(_exactly(content, size), kind).reshape(1, *shape[1:]))
        at = row + 1
    return np.concatenate(found)


def _chosen(count: int, rows: int) -> list[int]:
    if count < 1:
        raise ValueError("an array without rows")
    return sorted(int(row) for row in np.random.default_rng(0).choice(count, min(rows, count), replace=False))


def _skip(content: IO[bytes], size: int) -> None:
    while size > 0:
        size -= len(_exactly(content, min(size, _CHUNK)))


def _exactly(content: IO[bytes], size: int) -> Any:
    data = content.read(size)
    if len(data) != size:
        raise EOFError("it ends before its last row")
    return data
