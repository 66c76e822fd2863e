"""A PyTorch module becomes ONNX with a dynamic batch axis, and has to predict the same.

The exported file must not depend on where or when it was made, so traces of the exporting process (stack traces with
paths, in node metadata) are taken out.
"""

import shutil
import warnings
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from torch import nn

from trimtab_api.errors import PassFailed
from trimtab_api.package import ONNX_FILE, ModelPackage
from trimtab_api.spec import ModelFormat
from trimtab_optimizer.importers.pytorch import load_module, ordered_outputs, structure_of
from trimtab_optimizer.package import Model, write_package
from trimtab_optimizer.passes.contract import Outcome, Workplace
from trimtab_optimizer.passes.verification import TOLERANCE, largest_difference
from trimtab_optimizer.streaming.reweigh import store_sparse
from trimtab_optimizer.tensors import example_inputs

_EXAMPLE_ROWS = 2
_LARGEST_INLINE = 1 << 30  # protobuf ends at 2 GiB; weights beyond this go beside the graph


def to_onnx(model: Model, work: Workplace) -> Outcome:
    """Return the model as ONNX. Raises PassFailed where it cannot be exported or predicts something else."""
    if model.package.format is ModelFormat.ONNX:
        shutil.copytree(model.folder, work.target)
        return Outcome(Model(work.target, model.package), {"note": "the model was ONNX already: nothing was done"})
    work.target.mkdir(parents=True)
    _export(model, work)
    sparse = store_sparse(work.target / ONNX_FILE, work.scratch) if structure_of(model).sparse else ()
    changes = {"format": ModelFormat.ONNX, "weights": ONNX_FILE} | dict.fromkeys(("entrypoint", "structure", "metrics"))
    made = write_package(work.target, model.package.model_copy(update=changes))
    notes = {"tolerance": TOLERANCE, "maxDifference": largest_difference(model, made, work), "sparse": list(sparse)}
    return Outcome(made, notes)


class _Ordered(nn.Module):
    """Gives the outputs of a module as a tuple, in the order of model.yaml."""

    def __init__(self, module: nn.Module, package: ModelPackage) -> None:
        super().__init__()
        self.module = module
        self._package = package

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(ordered_outputs(self.module(*inputs), self._package))


def _export(model: Model, work: Workplace) -> None:
    module = _Ordered(load_module(model, work.allow_pickle), model.package).eval()
    inputs = example_inputs(model.package.inputs, _EXAMPLE_ROWS, work.seed)  # not of the data: it is not in the key
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                tuple(torch.from_numpy(value) for value in inputs.values()),
                dynamo=True,
                dynamic_shapes=(_dynamic_axes(model.package),),
                input_names=[tensor.name for tensor in model.package.inputs],
                output_names=[tensor.name for tensor in model.package.outputs],
                optimize=True,
                verbose=False,
            )
    except Exception as error:
        raise PassFailed(f"convert cannot export the module to ONNX: {_cause(error)}") from error
    if program is None:
        raise PassFailed("convert cannot export the module to ONNX: the exporter gave nothing")
    _save(program.model, module, work.target / ONNX_FILE)


def _dynamic_axes(package: ModelPackage) -> tuple[dict[int, Any], ...]:
    """Return the free axes of each input: the batch, which they share, and the others that are -1."""
    batch, free = torch.export.Dim("batch"), torch.export.Dim.DYNAMIC
    return tuple(
        {0: batch} | {axis: free for axis, length in enumerate(tensor.shape) if axis and length < 0}
        for tensor in package.inputs
    )


def _save(graph: onnx_ir.Model, module: nn.Module, path: Path) -> None:
    graph.metadata_props.clear()
    graph.doc_string = None
    for node in onnx_ir.traversal.RecursiveGraphIterator(graph.graph):
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*graph.graph.inputs, *graph.graph.initializers.values()):
        value.metadata_props.clear()
    graph.graph.metadata_props.clear()
    size = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    onnx_ir.save(graph, path, external_data=f"{ONNX_FILE}.data" if size > _LARGEST_INLINE else None)


def _cause(error: BaseException) -> str:
    """Return the innermost error, which says what the module did; the exporter's own text is pages long."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
