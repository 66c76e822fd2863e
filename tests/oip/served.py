"""A server under test, what its metadata says of the model, and made-up rows that fit it."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

_LENGTH = 4  # of axes of any length
NUMPY = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Served:
    """A model of a server; `grpc` of None is not asked."""

    url: str
    grpc: str | None
    model: str

    @property
    def path(self) -> str:
        return f"/v2/models/{self.model}"

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """Return what the server says of the model."""
        found: dict[str, Any] = httpx.get(f"{self.url}{self.path}", timeout=30).json()
        return found

    @cached_property
    def extensions(self) -> list[str]:
        """Return the extensions that the server says it has."""
        found: list[str] = httpx.get(f"{self.url}/v2", timeout=30).json().get("extensions", [])
        return found

    @property
    def has_binary_tensors(self) -> bool:
        return "binary_tensor_data" in self.extensions

    @property
    def needs_binary_tensors(self) -> bool:
        """Tell whether an input has a type without a form in JSON."""
        return any(item["datatype"] == "FP16" for item in self.metadata["inputs"])

    def rows(self, count: int, seed: int = 0) -> Arrays:
        """Return random values for every input."""
        random = np.random.default_rng(seed)
        return {item["name"]: _made_up(random, item, count) for item in self.metadata["inputs"]}

    def tensors(self, arrays: Arrays) -> list[dict[str, Any]]:
        """Return arrays as the protocol describes them, without their data."""
        types = {item["name"]: item["datatype"] for item in self.metadata["inputs"]}
        return [{"name": name, "shape": list(array.shape), "datatype": types[name]} for name, array in arrays.items()]

    def listed(self, arrays: Arrays, nested: bool = False) -> list[dict[str, Any]]:
        """Return arrays with their data as lists."""
        return [
            {**tensor, "data": array.tolist() if nested else array.ravel().tolist()}
            for tensor, array in zip(self.tensors(arrays), arrays.values(), strict=True)
        ]


def raw(array: NDArray[Any]) -> bytes:
    """Return an array in the raw form of the protocol."""
    if array.dtype.kind != "O":
        return array.tobytes()
    texts = [str(text).encode() for text in array.ravel()]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def from_raw(content: bytes, datatype: str, shape: list[int]) -> NDArray[Any]:
    """Return the array of a raw form; text as bytes."""
    if datatype != "BYTES":
        return np.frombuffer(content, NUMPY[datatype]).reshape(shape)
    found = []
    while content:
        (length,) = struct.unpack_from("<I", content)
        found.append(content[4 : 4 + length])
        content = content[4 + length :]
    texts = np.empty(prod(shape), object)
    texts[:] = found
    return texts.reshape(shape)


def same(left: NDArray[Any], right: NDArray[Any]) -> bool:
    """Compare what two ways gave: text to the letter, numbers to the rounding of their type."""
    if left.dtype.kind == "O" or right.dtype.kind in "OU":
        return [_text(item) for item in left.ravel()] == [_text(item) for item in right.ravel()]
    return bool(np.allclose(left.astype(np.float64), right.astype(np.float64), rtol=1e-3, atol=1e-5))


def _text(item: Any) -> str:
    return item.decode() if isinstance(item, bytes) else str(item)


def _made_up(random: np.random.Generator, item: Mapping[str, Any], rows: int) -> NDArray[Any]:
    shape = (rows, *(_LENGTH if axis == -1 else axis for axis in item["shape"][1:]))
    kind = np.dtype(NUMPY[item["datatype"]])
    if kind.kind == "O":
        texts = np.empty(shape, object)
        texts.ravel()[:] = [f"word {number} ü" for number in random.integers(0, 99, prod(shape))]
        return texts
    if kind.kind == "f":
        return random.standard_normal(shape).astype(kind)
    return random.integers(0, 2 if kind.kind == "b" else 100, shape).astype(kind)
