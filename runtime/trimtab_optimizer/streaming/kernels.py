"""Arithmetic of a chunk: pure functions over float32 arrays, vectorized, with no state.

Blockwise quantization gives the bytes that ONNX Runtime's own quantizer gives (MlasBlockwiseQuantizer in
onnxruntime/core/mlas/lib/q4_dq.cpp); a test holds the two together.
"""

from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

# The largest code of a column. CPUs without VNNI add two products of 8 bits in 16, where 255 * 127 * 2 does not fit and
# ONNX Runtime gives wrong numbers. 255 * 64 * 2 fits, so an artifact means the same on every node.
COLUMN_CODES: Final = 64
BITS: Final = {"int2": 2, "int4": 4, "int8": 8}
BLOCK_SIZE: Final = 32  # weights that share a scale, where nobody says how many
FULL_CODES: Final = 127  # for nodes that are known to have VNNI

_HALF: Final = np.float32(0.5)
_APART: Final = 16  # values: a line of the cache


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks of a weight, quantized: `packed` [blocks, columns, block_size * bits / 8], `scales` and `zeros` [blocks,
    columns]. `zeros` is None where the blocks are symmetric."""

    packed: Bytes
    scales: Floats
    zeros: Bytes | None


def quantize_blocks(values: Floats, bits: int, block_size: int, symmetric: bool) -> Blocks:
    """Quantize [rows, columns] in blocks of `block_size` rows, the last of which may be short.

    Asymmetric: the range of a block, zero included, on 0 to 2^bits - 1. Symmetric: the value that is largest without
    its sign becomes the lowest code, the middle stands for zero.
    """
    blocks = _blocks(values, block_size)
    low, high = blocks.min(1), blocks.max(1)
    zeros = None
    if symmetric:
        scales = np.where(np.abs(high) > np.abs(low), high, low) / np.float32(-(1 << (bits - 1)))
        middle = np.full_like(scales, 1 << (bits - 1))
    else:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        scales = (high - low) / np.float32((1 << bits) - 1)
        middle = np.floor(np.divide(-low, scales, out=np.zeros_like(low), where=scales != 0) + _HALF)
        zeros = middle.astype(np.uint8)
    return Blocks(_packed(_codes(blocks, _inverse(scales), middle, bits), bits), scales, zeros)


def pack_zeros(zeros: Bytes, bits: int) -> Bytes:
    """Pack zero points [columns, blocks] along the blocks, several into a byte, as MatMulNBits reads them."""
    per_byte = 8 // bits
    filled = np.pad(zeros, ((0, 0), (0, -zeros.shape[1] % per_byte)))
    found = filled[:, 0::per_byte].copy()
    for place in range(1, per_byte):
        found |= filled[:, place::per_byte] << np.uint8(place * bits)
    return found


def quantize_columns(values: Floats, scales: Floats, largest: int = COLUMN_CODES) -> NDArray[np.int8]:
    """Quantize [rows, columns] to whole numbers up to `largest`, with one scale for each column.

    Divided, not multiplied with the inverse, as ONNX Runtime's quant_utils.py does it: a value half way between two
    codes would now and then fall on the other one.
    """
    codes = values / np.where(scales == 0, np.float32(1), scales)
    np.rint(codes, out=codes)
    return np.clip(codes, -largest, largest, out=codes).astype(np.int8)


def column_scales(values: Floats, largest: int = COLUMN_CODES) -> Floats:
    """Return the scales that put the largest value of each column on the largest code."""
    return values / np.float32(largest)


def to_float32(values: NDArray[Any]) -> Floats:
    """Return floats of any kind as float32; bfloat16 is its upper half, which shifting gives faster than a cast."""
    if values.dtype != ml_dtypes.bfloat16:
        return np.ascontiguousarray(values, np.float32)
    found = np.ascontiguousarray(values).view(np.uint16).astype(np.uint32)
    found <<= np.uint32(16)
    return found.view(np.float32)


def turned(values: Floats) -> Floats:
    """Return [rows, columns] as [columns, rows], in a memory of its own.

    By way of rows that lie a little further apart: where they are a multiple of 4 KiB apart, as those of most weights,
    a cache keeps only a few of them at once, and turning takes eight times as long.
    """
    rows, columns = values.shape
    apart = np.empty((rows, columns + _APART), values.dtype)[:, :columns]
    apart[:] = values
    return np.ascontiguousarray(apart.T)


def to_bfloat16(values: Floats) -> NDArray[np.uint16]:
    """Round to bfloat16, ties to even."""
    return values.astype(ml_dtypes.bfloat16).view(np.uint16)


def float8_scales(largest: Floats, top: int) -> Floats:
    """Return the scales that put the largest value of each column on `top`, the largest number of a float of 8 bits.

    1 where there is nothing to scale: a column of zeros, or of values so small that the scale would lose its digits.
    """
    scales = largest / np.float32(top)
    return np.where(scales < np.finfo(np.float32).tiny, np.float32(1), scales)


def to_float8(values: Floats, scales: Floats, kind: np.dtype[Any]) -> Bytes:
    """Scale each column and round to a float of 8 bits, ties to even."""
    return (values / scales).astype(kind).view(np.uint8)


def _blocks(values: Floats, block_size: int) -> Floats:
    """Return [blocks, block_size, columns]; a short last block is filled with zeros, which change no range."""
    rows, columns = values.shape
    lacking = -rows % block_size
    if lacking:
        values = np.concatenate([values, np.zeros((lacking, columns), np.float32)])
    return values.reshape(-1, block_size, columns)


def _codes(blocks: Floats, inverse: Floats, middle: Floats, bits: int) -> Bytes:
    """Round half up, as C's roundf does what is not negative: half is added, and the conversion cuts the rest off."""
    largest = (1 << bits) - 1
    found = blocks * inverse[:, None, :]
    found += (middle + _HALF)[:, None, :]
    if bits == 8:  # what is above would not fit into a byte
        np.minimum(found, largest, out=found)
    codes = found.astype(np.uint8)
    np.minimum(codes, largest, out=codes)  # of bytes it takes a tenth of the time
    return codes


def _inverse(scales: Floats) -> Floats:
    return np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales != 0)


def _packed(codes: Bytes, bits: int) -> Bytes:
    """Pack [blocks, block_size, columns] along the rows of a block, the first row into the lowest bits."""
    per_byte = 8 // bits
    found = codes[:, 0::per_byte].copy()
    for place in range(1, per_byte):
        found |= codes[:, place::per_byte] << np.uint8(place * bits)
    return found.transpose(0, 2, 1)
