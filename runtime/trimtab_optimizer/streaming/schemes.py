"""Schemes: what stands for the weight of a matrix product afterwards, as tensors, as nodes, and as pieces of work."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from trimtab_optimizer.streaming import kernels
from trimtab_optimizer.streaming.carrying import Work
from trimtab_optimizer.streaming.kernels import Bytes, Floats
from trimtab_optimizer.streaming.matrices import STRIP, Matrix, ranges, strips
from trimtab_optimizer.streaming.output import Output, Place
from trimtab_optimizer.streaming.weights import Weight

MICROSOFT: Final = "com.microsoft"

_TILE: Final = 16 << 20  # bytes that one worker collects before it writes
_WIDEST: Final = 1 << 16  # outputs at once, of which a whole block of inputs is read
_TOP: Final[dict[int, int]] = {TensorProto.FLOAT8E4M3FN: 448, TensorProto.FLOAT8E5M2: 57344}  # the largest numbers
_LARGE: Final = 1 << 18  # weights: a mebibyte of float32


class Scheme(Protocol):
    """One way to store matrices. `opset` is the first one that has its operators; `is_faster` tells what it is for."""

    @property
    def opset(self) -> int: ...

    @property
    def is_faster(self) -> bool: ...

    def work(self, matrix: Matrix, output: Output) -> Iterator[Work]:
        """Reserve the new tensors of a matrix and yield independent pieces of work that fill them."""

    def nodes(self, matrix: Matrix, data: str, result: str) -> list[NodeProto]:
        """Return the nodes that multiply `data` with the matrix and give `result`."""


@dataclass(frozen=True, slots=True)
class Blockwise:
    """Weights of 2, 4 or 8 bits in blocks along the inputs, which MatMulNBits multiplies without unpacking them first.

    accuracy_level 4 lets it compute in int8: without it, this is many times slower than float.
    """

    bits: int
    block_size: int
    symmetric: bool
    opset: int = 11
    is_faster: bool = True

    def work(self, matrix: Matrix, output: Output) -> Iterator[Work]:
        name, outputs, blocks = matrix.made(matrix.weight.name), matrix.outputs, self._blocks(matrix)
        size = self.block_size * self.bits // 8
        codes = output.reserve(f"{name}_q", TensorProto.UINT8, (outputs, blocks, size), outputs * blocks * size)
        scales = output.reserve(f"{name}_scales", TensorProto.FLOAT, (outputs * blocks,), outputs * blocks * 4)
        zeros = None
        if not self.symmetric:
            packed = outputs * -(-blocks * self.bits // 8)
            zeros = output.reserve(f"{name}_zeros", TensorProto.UINT8, (packed,), packed)
        for tile in ranges(outputs, max(1, min(_WIDEST, _TILE // (blocks * size)))):
            yield partial(self._fill, matrix, output, (codes, scales, zeros), tile)

    def nodes(self, matrix: Matrix, data: str, result: str) -> list[NodeProto]:
        name = matrix.made(matrix.weight.name)
        inputs = [data, f"{name}_q", f"{name}_scales", *([] if self.symmetric else [f"{name}_zeros"])]
        node = helper.make_node(
            "MatMulNBits",
            inputs,
            [result],
            name=f"{result}_nbits",
            domain=MICROSOFT,
            K=matrix.inputs,
            N=matrix.outputs,
            bits=self.bits,
            block_size=self.block_size,
            accuracy_level=4,
        )
        return [node]

    def _blocks(self, matrix: Matrix) -> int:
        return -(-matrix.inputs // self.block_size)

    def _fill(self, matrix: Matrix, output: Output, places: tuple[Place, Place, Place | None], outputs: range) -> None:
        count, size = self._blocks(matrix), self.block_size * self.bits // 8
        codes = np.empty((len(outputs), count, size), np.uint8)
        scales = np.empty((len(outputs), count), np.float32)
        zeros = np.empty((len(outputs), count), np.uint8)
        quantize = self._compiled if matrix.compiles else self._computed
        quantize(matrix, outputs, codes, scales, zeros)
        output.write(places[0], outputs.start * count * size, codes)
        output.write(places[1], outputs.start * count * 4, scales)
        if places[2] is not None:
            points = kernels.pack_zeros(zeros, self.bits)
            output.write(places[2], outputs.start * points.shape[1], points)

    def _computed(self, matrix: Matrix, outputs: range, codes: Bytes, scales: Floats, zeros: Bytes) -> None:
        """Fill codes, scales and zeros of some outputs."""
        for inputs, columns, values in matrix.parts(outputs, self.block_size):
            found = kernels.quantize_blocks(values, self.bits, self.block_size, self.symmetric)
            rows, blocks = self._places(inputs, columns, outputs)
            for number, packed in enumerate(found.packed, blocks.start):
                codes[rows, number] = packed  # block by block: numpy turns a plane twice as fast as a cube
            scales[rows, blocks] = found.scales.T
            if found.zeros is not None:
                zeros[rows, blocks] = found.zeros.T

    def _compiled(self, matrix: Matrix, outputs: range, codes: Bytes, scales: Floats, zeros: Bytes) -> None:
        """Fill the same, by compiled code."""
        from trimtab_optimizer.streaming import compiled  # late: half a second, for large models only

        make = compiled.rows_quantizer if matrix.transposed else compiled.columns_quantizer
        quantize = make(self.bits, self.symmetric)
        for inputs, columns, values, shift in matrix.bits(outputs, self.block_size):
            part = self._places(inputs, columns, outputs)
            matrix.weight.check_numbers(quantize(values, shift, codes[part], scales[part], zeros[part]))

    def _places(self, inputs: range, columns: range, outputs: range) -> tuple[slice, slice]:
        """Return where a part of a matrix goes, in rows and blocks of what is made of some outputs."""
        first = inputs.start // self.block_size
        rows = slice(columns.start - outputs.start, columns.stop - outputs.start)
        return rows, slice(first, first + -(-len(inputs) // self.block_size))


@dataclass(frozen=True, slots=True)
class DynamicInt8:
    """Weights of 8 bits with a scale for each output; activations are measured and rounded at each call.

    The nodes are those that ONNX Runtime fuses into one integer product. `largest` is the largest code.
    """

    largest: int = kernels.COLUMN_CODES
    opset: int = 11
    is_faster: bool = True

    def work(self, matrix: Matrix, output: Output) -> Iterator[Work]:
        places = _reserve_columns(matrix, output, TensorProto.INT8)
        scale = partial(kernels.column_scales, largest=self.largest)
        encode = partial(kernels.quantize_columns, largest=self.largest)
        yield partial(_fill_columns, matrix, output, places, scale, encode)

    def nodes(self, matrix: Matrix, data: str, result: str) -> list[NodeProto]:
        name, row, answer = matrix.made(matrix.weight.name), matrix.made(data), matrix.made(result)
        measured = [f"{row}_u8", f"{row}_scale", f"{row}_zero"]
        product = [f"{row}_u8", f"{name}_q", f"{row}_zero"]
        whole, floats, factor = f"{answer}_i32", f"{answer}_f32", f"{answer}_rescale"
        return [
            helper.make_node("DynamicQuantizeLinear", [data], measured, name=f"{data}_measure"),
            helper.make_node("MatMulInteger", product, [whole], name=f"{result}_integer"),
            helper.make_node("Cast", [whole], [floats], name=f"{result}_cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{row}_scale", f"{name}_scales"], [factor], name=f"{result}_rescaling"),
            helper.make_node("Mul", [floats, factor], [result], name=f"{result}_scaled"),
        ]


@dataclass(frozen=True, slots=True)
class Stored:
    """Weights in a float of 16 bits, turned into float32 when the model is loaded: a smaller file, and no faster."""

    data_type: int
    opset: int = 13
    is_faster: bool = False

    def work(self, matrix: Matrix, output: Output) -> Iterator[Work]:
        weight = matrix.weight
        place = output.reserve(
            matrix.made(f"{weight.name}_half"), self.data_type, weight.dims, weight.rows * weight.columns * 2
        )
        for rows in ranges(weight.rows, max(1, _TILE // (weight.columns * 2))):
            yield partial(self._fill, weight, output, place, rows)

    def nodes(self, matrix: Matrix, data: str, result: str) -> list[NodeProto]:
        half, values = f"{matrix.made(matrix.weight.name)}_half", matrix.made(f"{result}_weight")
        turned = matrix.made(f"{result}_turned") if matrix.transposed and not matrix.is_flat else ""
        cast = helper.make_node("Cast", [turned or half], [values], name=f"{result}_cast", to=TensorProto.FLOAT)
        if turned:  # first, in 16 bits: ONNX Runtime computes both once, at loading
            turn = helper.make_node("Transpose", [half], [turned], name=f"{result}_turn", perm=[1, 0])
            return [turn, cast, helper.make_node("MatMul", [data, values], [result], name=f"{result}_matmul")]
        if matrix.transposed:
            return [cast, helper.make_node("Gemm", [data, values], [result], name=f"{result}_gemm", transB=1)]
        return [cast, helper.make_node("MatMul", [data, values], [result], name=f"{result}_matmul")]

    def _fill(self, weight: Weight, output: Output, place: Place, rows: range) -> None:
        for part in ranges(len(rows), max(1, STRIP // weight.columns)):
            first = rows.start + part.start
            values = weight.read(range(first, first + len(part)))
            if self.data_type == TensorProto.BFLOAT16:
                output.write(place, first * weight.columns * 2, kernels.to_bfloat16(values))
            else:
                output.write(place, first * weight.columns * 2, _to_float16(values))


@dataclass(frozen=True, slots=True)
class Float8:
    """Weights in a float of 8 bits with a scale for each output, turned into float32 when the model is loaded.

    Cast and Mul, and not DequantizeLinear: ONNX Runtime computes the two once, at loading, but that one at each call.
    But it keeps the memory of what it computed in between, as much as the model again. So where a matrix is large, the
    results are scaled and not the weights: one more operator at each call, which is little beside that product.
    """

    data_type: int
    opset: int = 19
    is_faster: bool = False

    def work(self, matrix: Matrix, output: Output) -> Iterator[Work]:
        kind = helper.tensor_dtype_to_np_dtype(self.data_type)
        places = _reserve_columns(matrix, output, self.data_type)
        scale, encode = partial(kernels.float8_scales, top=_TOP[self.data_type]), partial(kernels.to_float8, kind=kind)
        yield partial(_fill_columns, matrix, output, places, scale, encode)

    def nodes(self, matrix: Matrix, data: str, result: str) -> list[NodeProto]:
        # Named after the weight: of two products with one weight, both read one float32 matrix.
        name = matrix.made(matrix.weight.name)
        floats, scales, product = f"{name}_floats", f"{name}_scales", f"{result}_matmul"
        cast = helper.make_node("Cast", [f"{name}_q"], [floats], name=f"{name}_cast", to=TensorProto.FLOAT)
        if matrix.inputs * matrix.outputs < _LARGE:
            values = f"{name}_values"
            scaled = helper.make_node("Mul", [floats, scales], [values], name=f"{name}_scaled")
            return [cast, scaled, helper.make_node("MatMul", [data, values], [result], name=product)]
        raw = matrix.made(f"{result}_unscaled")
        multiply = helper.make_node("MatMul", [data, floats], [raw], name=product)
        return [cast, multiply, helper.make_node("Mul", [raw, scales], [result], name=f"{result}_scaled")]


def _reserve_columns(matrix: Matrix, output: Output, data_type: int) -> tuple[Place, Place]:
    """Return the places of codes of 8 bits, [inputs, outputs], and of a scale for each output."""
    name, shape = matrix.made(matrix.weight.name), (matrix.inputs, matrix.outputs)
    codes = output.reserve(f"{name}_q", data_type, shape, matrix.inputs * matrix.outputs)
    return codes, output.reserve(f"{name}_scales", TensorProto.FLOAT, (matrix.outputs,), matrix.outputs * 4)


def _fill_columns(
    matrix: Matrix,
    output: Output,
    places: tuple[Place, Place],
    scale: Callable[[Floats], Floats],
    encode: Callable[[Floats, Floats], NDArray[Any]],
) -> None:
    """Write codes and scales; `scale` makes a scale of the largest value of a column, `encode` codes of both."""
    scales = scale(_largest(matrix))
    output.write(places[1], 0, scales)
    for tile in ranges(matrix.inputs, max(1, _TILE // matrix.outputs)):
        made = np.empty((len(tile), matrix.outputs), np.uint8)
        for inputs, columns in strips(matrix, range(matrix.outputs), 1, tile):
            part = slice(columns.start, columns.stop)
            rows = slice(inputs.start - tile.start, inputs.stop - tile.start)
            made[rows, part] = encode(matrix.read(inputs, columns), scales[part]).view(np.uint8)
        output.write(places[0], tile.start * matrix.outputs, made)


def _largest(matrix: Matrix) -> Floats:
    """Return the largest value of each output, without its sign."""
    largest = np.zeros(matrix.outputs, np.float32)
    for inputs, columns in strips(matrix, range(matrix.outputs), 1):
        part = slice(columns.start, columns.stop)
        values = matrix.read(inputs, columns)
        np.maximum(largest[part], np.maximum(values.max(0), -values.min(0)), out=largest[part])
    return largest


def _to_float16(values: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
    """Round to float16; what is too large becomes the largest number there is, and not infinity."""
    largest = np.finfo(np.float16).max
    return np.clip(values, -largest, largest).astype(np.float16)
