"""BYTES tensors: arrays of text. Raw, each element is its length (4 bytes, little-endian) and its bytes."""

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

_LENGTH = struct.Struct("<I")


def from_list(data: Any) -> npt.NDArray[Any]:
    """Return an array of str from text or UTF-8 bytes, nested or flat. Raises ValueError."""
    array = np.asarray(data, dtype=object)
    elements = [_text(element) for element in array.ravel()]
    texts = np.empty(len(elements), dtype=object)
    texts[:] = elements
    return texts.reshape(array.shape)


def unpack(data: bytes | memoryview) -> npt.NDArray[Any]:
    """Return the elements of the raw form, flat. Raises ValueError where a length leads past the end."""
    elements, at = [], 0
    while at < len(data):
        start = at + _LENGTH.size
        end = start + _LENGTH.unpack_from(data, at)[0] if start <= len(data) else len(data) + 1
        if end > len(data):
            raise ValueError(f"the element at byte {at} leads past the end")
        elements.append(bytes(data[start:end]))
        at = end
    return from_list(elements)


def pack(array: npt.NDArray[Any]) -> bytes:
    """Return the raw form of an array of text."""
    parts = []
    for element in array.ravel():
        encoded = element if isinstance(element, bytes) else str(element).encode()
        parts += [_LENGTH.pack(len(encoded)), encoded]
    return b"".join(parts)


def _text(element: Any) -> str:
    if isinstance(element, bytes):
        return element.decode()
    if not isinstance(element, str):
        raise ValueError(f"{element!r} is no text")
    return element
