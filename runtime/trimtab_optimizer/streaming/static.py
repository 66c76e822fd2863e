"""int8 weights and activations of matrix products, with ranges of the activations that were measured beforehand."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from onnx import NodeProto, TensorProto, helper

from trimtab_optimizer.streaming.carrying import Work
from trimtab_optimizer.streaming.kernels import COLUMN_CODES
from trimtab_optimizer.streaming.matrices import Matrix
from trimtab_optimizer.streaming.output import Output
from trimtab_optimizer.streaming.schemes import DynamicInt8
from trimtab_optimizer.streaming.segments import Range

_LARGEST_CODE: Final = 255


@dataclass(frozen=True, slots=True)
class StaticInt8:
    """Codes of a range for what a product reads, in QuantizeLinear and DequantizeLinear; weights as in DynamicInt8.

    ONNX Runtime multiplies in int8 what stands between them. `ranges` are of the values that products read.
    """

    ranges: Mapping[str, Range]
    largest: int = COLUMN_CODES
    opset: int = 13
    is_faster: bool = True

    def work(self, matrix: Matrix, output: Output) -> Iterator[Work]:
        yield from DynamicInt8(self.largest).work(matrix, output)

    def nodes(self, matrix: Matrix, data: str, result: str) -> list[NodeProto]:
        name, row = matrix.made(matrix.weight.name), matrix.made(data)
        coded, form = f"{row}_u8", [f"{row}_scale", f"{row}_zero"]
        scale, zero = scale_of(self.ranges[data])
        weights = [f"{name}_q", f"{name}_scales"]
        return [
            _constant(form[0], TensorProto.FLOAT, scale),
            _constant(form[1], TensorProto.UINT8, zero),
            helper.make_node("QuantizeLinear", [data, *form], [coded], name=f"{data}_quantize"),
            helper.make_node("DequantizeLinear", [coded, *form], [f"{row}_f32"], name=f"{data}_dequantize"),
            helper.make_node("DequantizeLinear", weights, [f"{name}_f32"], name=f"{name}_dequantize", axis=1),
            helper.make_node("MatMul", [f"{row}_f32", f"{name}_f32"], [result], name=f"{result}_matmul"),
        ]


def scale_of(values: Range) -> tuple[float, int]:
    """Return scale and zero point that put a range, zero included, on 0 to 255."""
    low, high = min(values.low, 0.0), max(values.high, 0.0)
    scale = float(np.float32((high - low) / _LARGEST_CODE))
    return (scale, round(-low / scale)) if scale > 0 else (1.0, 0)


def _constant(name: str, data_type: int, value: Any) -> NodeProto:
    tensor = helper.make_tensor(name, data_type, (), [value])
    return helper.make_node("Constant", [], [name], name=f"{name}_constant", value=tensor)
