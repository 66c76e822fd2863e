"""Arithmetic of kernels.py once more, compiled by numba for this CPU: the same bytes, in a fraction of the time.

Compiling takes a second or two, so it is for large models. Each value is computed by the same float32 operations in the
same order as there; a test holds the two together. Values come as bits and are shifted, so that bfloat16 (the upper
half of a float32) and float32 are one code. Rows and columns are two: the code for columns takes four times as long for
a single one.
"""

import threading
from collections.abc import Callable
from functools import cache
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trimtab_optimizer.streaming.kernels import Bytes, Floats

Bits = NDArray[np.uint16] | NDArray[np.uint32]
Quantize = Callable[[Bits, Any, Bytes, Floats, Bytes], bool]

_MAGNITUDE: Final = np.uint32(0x7FFFFFFF)
_INFINITE: Final = np.uint32(0x7F800000)  # the magnitude of infinity; what is above is no number
_ACROSS: Final = 256  # columns at once: what a core reads of a row in one go
_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)

_LOCK: Final = threading.Lock()  # threads that want the same function at once get the same, and it is compiled once
_compiled = njit(nogil=True, error_model="numpy")  # once it is called; other threads run meanwhile


def rows_quantizer(width: int, symmetric: bool) -> Quantize:
    """Return what quantizes [outputs, inputs] in blocks along the rows, to codes of some bits.

    It takes the values as bits, and how far to shift them (uint32); fills codes [outputs, blocks, block_size * width /
    8], scales and zeros [outputs, blocks]; and tells whether all values were numbers. Blocks that are symmetric have no
    zeros to fill.
    """
    with _LOCK:
        return _rows_quantizer(width, symmetric)


def columns_quantizer(width: int, symmetric: bool) -> Quantize:
    """Return what quantizes [inputs, outputs] in blocks along the columns; otherwise like rows_quantizer."""
    with _LOCK:
        return _columns_quantizer(width, symmetric)


@cache
def _rows_quantizer(width: int, symmetric: bool) -> Quantize:
    form, per_byte, largest = _form_for(width, symmetric), 8 // width, np.int32((1 << width) - 1)

    @_compiled
    def quantize(bits: Any, shift: Any, codes: Any, scales: Any, zeros: Any) -> Any:
        block_size = codes.shape[2] * per_byte  # no constant: unrolled for one, the code takes twice as long
        values = np.empty(block_size, np.float32)
        loaded, largest_seen = values.view(np.uint32), np.uint32(0)
        for row in range(bits.shape[0]):
            for block in range(codes.shape[1]):
                first = block * block_size
                length = min(block_size, bits.shape[1] - first)
                for place in range(length):
                    loaded[place] = np.uint32(bits[row, first + place]) << shift
                for place in range(length, block_size):
                    loaded[place] = 0
                for place in range(block_size):
                    largest_seen = max(largest_seen, loaded[place] & _MAGNITUDE)
                low, high = values[0], values[0]
                for value in values:
                    low, high = min(low, value), max(high, value)
                scale, middle, inverse = form(low, high)
                scales[row, block], offset = scale, middle + _HALF
                if not symmetric:
                    zeros[row, block] = np.uint8(middle)
                for place in range(codes.shape[2]):
                    byte = np.int32(0)
                    for part in range(per_byte):
                        code = np.int32(values[place * per_byte + part] * inverse + offset)
                        byte |= min(code, largest) << np.int32(part * width)
                    codes[row, block, place] = np.uint8(byte)
        return largest_seen < _INFINITE

    return quantize


@cache
def _columns_quantizer(width: int, symmetric: bool) -> Quantize:
    form, per_byte, largest = _form_for(width, symmetric), 8 // width, np.int32((1 << width) - 1)

    @_compiled
    def quantize(bits: Any, shift: Any, codes: Any, scales: Any, zeros: Any) -> Any:
        block_size = codes.shape[2] * per_byte  # no constant: unrolled for one, the code takes twice as long
        values = np.empty((block_size, _ACROSS), np.float32)
        loaded, largest_seen = values.view(np.uint32), np.uint32(0)
        low, high = np.empty(_ACROSS, np.float32), np.empty(_ACROSS, np.float32)
        packed = np.empty((codes.shape[2], _ACROSS), np.uint8)
        for block in range(codes.shape[1]):
            first = block * block_size
            length = min(block_size, bits.shape[0] - first)
            for start in range(0, bits.shape[1], _ACROSS):
                across = min(_ACROSS, bits.shape[1] - start)
                loaded[length:] = 0
                for place in range(length):
                    for column in range(across):
                        loaded[place, column] = np.uint32(bits[first + place, start + column]) << shift
                        largest_seen = max(largest_seen, loaded[place, column] & _MAGNITUDE)
                low[:], high[:] = values[0], values[0]
                for place in range(1, block_size):
                    for column in range(across):
                        low[column] = min(low[column], values[place, column])
                        high[column] = max(high[column], values[place, column])
                for column in range(across):
                    scale, middle, inverse = form(low[column], high[column])
                    scales[start + column, block] = scale
                    if not symmetric:
                        zeros[start + column, block] = np.uint8(middle)
                    low[column], high[column] = inverse, middle + _HALF
                for place in range(codes.shape[2]):
                    for column in range(across):
                        byte = np.int32(0)
                        for part in range(per_byte):
                            value = values[place * per_byte + part, column]
                            code = np.int32(value * low[column] + high[column])
                            byte |= min(code, largest) << np.int32(part * width)
                        packed[place, column] = np.uint8(byte)
                for column in range(across):
                    for place in range(codes.shape[2]):
                        codes[start + column, block, place] = packed[place, column]
        return largest_seen < _INFINITE

    return quantize


@cache
def _form_for(width: int, symmetric: bool) -> Any:
    """Return what finds scale, middle and the inverse of the scale by the range of a block; see kernels.py."""
    steps, middle_code = np.float32((1 << width) - 1), np.float32(1 << (width - 1))

    @_compiled
    def form(low: Any, high: Any) -> Any:
        if symmetric:
            scale, middle = (high if abs(high) > abs(low) else low) / -middle_code, middle_code
        else:
            least, most = min(low, _ZERO), max(high, _ZERO)
            scale = (most - least) / steps
            middle = np.floor(-least / scale + _HALF) if scale != 0 else _ZERO
        return scale, middle, _ONE / scale if scale != 0 else _ZERO

    return form
