"""A module as an ONNX graph, without traces of the process that exported it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import onnx_ir
import torch
from torch import nn
from torch._export.utils import _compiling_state_context
from torch.onnx._internal.exporter import _flags

from trimtab_api.errors import PassFailed
from trimtab_api.package import ModelPackage
from trimtab_optimizer.importers.pytorch import ordered_outputs
from trimtab_optimizer.tensors import example_inputs

WRAPPED: Final = "module."  # before the name that a weight has in the module

_EXAMPLE_ROWS: Final = 2


class _Ordered(nn.Module):
    """Gives the outputs of a module as a tuple, in the order of model.yaml."""

    def __init__(self, module: nn.Module, package: ModelPackage) -> None:
        super().__init__()
        self.module = module
        self._package = package

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(ordered_outputs(self.module(*inputs), self._package))


def capture(module: nn.Module, package: ModelPackage, seed: int, optimize: bool) -> onnx_ir.Model:
    """Return the graph of a module; weights are named WRAPPED and their name in it. Raises PassFailed."""
    return clean(exported(module, package, seed, optimize))


def exported(module: nn.Module, package: ModelPackage, seed: int, optimize: bool) -> onnx_ir.Model:
    """Return the graph as the exporter gives it. Raises PassFailed."""
    inputs = example_inputs(package.inputs, _EXAMPLE_ROWS, seed)  # not of the data: it is not in the key
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Ordered(module, package).eval(),
                tuple(torch.from_numpy(value) for value in inputs.values()),
                dynamo=True,
                dynamic_shapes=(_dynamic_axes(package),),
                input_names=[tensor.name for tensor in package.inputs],
                output_names=[tensor.name for tensor in package.outputs],
                optimize=optimize,
                verbose=False,
            )
    except Exception as error:
        raise PassFailed(f"convert cannot export the module to ONNX: {_cause(error)}") from error
    if program is None:
        raise PassFailed("convert cannot export the module to ONNX: the exporter gave nothing")
    return program.model


@contextmanager
def as_if_exporting() -> Iterator[None]:
    """Let code that asks whether it is exported hear that it is."""
    before = _flags._is_onnx_exporting
    _flags._is_onnx_exporting = True
    try:
        with _compiling_state_context():
            yield
    finally:
        _flags._is_onnx_exporting = before


def clean(model: onnx_ir.Model) -> onnx_ir.Model:
    """Take traces of the exporting process out of a graph, in place, and return it."""
    graph = model.graph
    model.doc_string = None
    model.metadata_props.clear()
    graph.metadata_props.clear()
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()
    for node in onnx_ir.traversal.RecursiveGraphIterator(graph):
        node.doc_string = None
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    return model


def _dynamic_axes(package: ModelPackage) -> tuple[dict[int, Any], ...]:
    """Return the free axes of each input: the batch, which they share, and the others that are -1."""
    batch, free = torch.export.Dim("batch"), torch.export.Dim.DYNAMIC
    return tuple(
        {0: batch} | {axis: free for axis, length in enumerate(tensor.shape) if axis and length < 0}
        for tensor in package.inputs
    )


def _cause(error: BaseException) -> str:
    """Return the innermost error, which says what the module did; the exporter's own text is pages long."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
