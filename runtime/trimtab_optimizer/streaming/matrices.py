"""The constant operand of a matrix product, seen as [inputs, outputs] whatever way it is stored, and read in pieces.

MatMul and Gemm keep it so; Gemm with transB keeps [outputs, inputs], which is what torch exports for a linear layer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trimtab_optimizer.streaming import kernels
from trimtab_optimizer.streaming.kernels import Floats
from trimtab_optimizer.streaming.weights import Weight

STRIP: Final = 1 << 18  # floats computed at once: a mebibyte, which the cache of a core holds

_READ: Final = 1 << 20  # values read at once, of rows that are outputs


@dataclass(frozen=True, slots=True)
class Matrix:
    """The constant operand of a matrix product, [K, N]; `transposed` where its rows are the outputs.

    `is_flat` tells that the other operand has two axes, as Gemm wants it; `is_kept` that the weight stays in the graph
    for others, beside its new form. `compiles` tells that there is so much to compute that compiling pays.
    """

    weight: Weight
    transposed: bool
    prefix: str = ""  # of every name that is made
    is_flat: bool = False
    is_kept: bool = False
    compiles: bool = False

    def made(self, name: str) -> str:
        """Return the name of something new, which nothing in the graph has."""
        return f"{self.prefix}{name}"

    @property
    def inputs(self) -> int:
        return self.weight.columns if self.transposed else self.weight.rows

    @property
    def outputs(self) -> int:
        return self.weight.rows if self.transposed else self.weight.columns

    def read(self, inputs: range, outputs: range) -> Floats:
        """Return a part as [inputs, outputs]."""
        if self.transposed:
            return kernels.turned(self.weight.read(outputs, inputs))
        return self.weight.read(inputs, outputs)

    def parts(self, outputs: range, block: int) -> Iterator[tuple[range, range, Floats]]:
        """Yield all values of some outputs, [inputs, outputs], in whole blocks of inputs: what is computed at once.

        Rows that are outputs are read whole and computed in pieces, which are wide that way: that is twice as fast.
        """
        if not self.transposed:
            for inputs, columns in strips(self, outputs, block):
                yield inputs, columns, self.read(inputs, columns)
            return
        for columns in self._whole_rows(outputs):
            stored = self.weight.read_stored(columns)
            for inputs in ranges(self.inputs, max(1, STRIP // len(columns) // block) * block):
                values = self.weight.as_floats(stored[:, inputs.start : inputs.stop], columns, inputs)
                yield inputs, columns, kernels.turned(values)

    def bits(self, outputs: range, block: int) -> Iterator[tuple[range, range, NDArray[Any], np.uint32]]:
        """Yield all values of some outputs as bits and as they are stored, with inputs, outputs, and their shift."""
        if self.transposed:
            for rows in self._whole_rows(outputs):
                yield range(self.inputs), rows, *self.weight.read_bits(rows, range(self.inputs))
            return
        for inputs, columns in strips(self, outputs, block, size=_READ):
            yield inputs, columns, *self.weight.read_bits(inputs, columns)

    def _whole_rows(self, outputs: range) -> Iterator[range]:
        """Yield as many outputs as are read in one piece, of rows that are outputs."""
        for rows in ranges(len(outputs), max(1, _READ // self.inputs)):
            yield range(outputs.start + rows.start, outputs.start + rows.stop)


def strips(
    matrix: Matrix, outputs: range, block: int, within: range | None = None, size: int = STRIP
) -> Iterator[tuple[range, range]]:
    """Yield parts (inputs, outputs) that are read in one piece each, whole blocks of inputs at a time."""
    inputs = within or range(matrix.inputs)
    if matrix.transposed:
        for part in ranges(len(outputs), max(1, size // len(inputs))):
            yield inputs, range(outputs.start + part.start, outputs.start + part.stop)
        return
    for part in ranges(len(inputs), max(block, size // len(outputs) // block * block)):
        yield range(inputs.start + part.start, inputs.start + part.stop), outputs


def ranges(length: int, step: int) -> Iterator[range]:
    for start in range(0, length, step):
        yield range(start, min(length, start + step))
