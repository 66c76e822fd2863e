"""Export of modules too large to be held: a graph whose weights are bytes of the safetensors file itself.

The graph is captured from a module without values. Its constants then refer to the file of the package, which lies
beside the graph; where the module computes in another type than the file has, with a Cast.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.tensor_adapters import from_torch_dtype
from torch._subclasses.fake_tensor import FakeTensor

from trimtab_api.errors import PassFailed
from trimtab_api.package import ONNX_FILE, WEIGHTS_FILE
from trimtab_optimizer.capturing.exporter import WRAPPED, capture
from trimtab_optimizer.capturing.repeating import capture_deep
from trimtab_optimizer.importers.empty import DTYPES, empty_module, stored_tensors
from trimtab_optimizer.package import Model, share_file
from trimtab_optimizer.streaming.shards import read_header


def export_referring(model: Model, target: Path, seed: int) -> None:
    """Write the graph of a package beside its own weights. Raises InvalidPackage and PassFailed."""
    begin, header = read_header(model.weights)
    module = empty_module(model)
    stored = stored_tensors(module, header, model.weights.name)
    graph = capture_deep(model, seed) or capture(module, model.package, seed, optimize=False)
    for name in list(graph.graph.initializers):
        _refer(graph.graph, name, stored.get(name.removeprefix(WRAPPED)), begin)
    share_file(model.weights, target / WEIGHTS_FILE)
    ir.save(graph, target / ONNX_FILE)


def _refer(graph: ir.Graph, name: str, item: Mapping[str, Any] | None, begin: int) -> None:
    """Let an initializer lie in the safetensors file."""
    value = graph.initializers[name]
    assert value.const_value is not None
    if item is None:
        if isinstance(getattr(value.const_value, "raw", None), FakeTensor):
            raise _no_value(name.removeprefix(WRAPPED))
        return
    wanted, kind = value.const_value.dtype, from_torch_dtype(DTYPES[item["dtype"]])
    if wanted == kind:
        value.const_value = _external(name, item, begin, kind)
        return
    held = ir.Value(name=f"{name}.stored", type=ir.TensorType(kind), shape=value.shape)
    held.const_value, value.const_value = _external(f"{name}.stored", item, begin, kind), None
    del graph.initializers[name]
    graph.register_initializer(held)
    _cast(graph, value, held, wanted)


def _cast(graph: ir.Graph, value: ir.Value, held: ir.Value, wanted: ir.DataType) -> None:
    """Give readers of a stored value the type that they want; rows of a table once they are looked up."""
    for node, position in tuple(value.uses()):
        if node.op_type == "Gather" and position == 0:
            _cast_rows(graph, node, held, wanted)
    if value.uses():
        cast = ir.node("Cast", [held], {"to": wanted}, outputs=[value], name=f"{value.name}.cast")
        graph.insert_before(graph[0], cast)


def _cast_rows(graph: ir.Graph, node: ir.Node, held: ir.Value, wanted: ir.DataType) -> None:
    """Put a look-up in the stored type, and a Cast of what was found, in the place of a look-up."""
    rows = ir.node("Gather", [held, node.inputs[1]], node.attributes, name=f"{node.name}.stored")
    rows.outputs[0].name = f"{node.outputs[0].name}.stored"
    cast = ir.node("Cast", [rows.outputs[0]], {"to": wanted}, name=f"{node.name}.cast")
    ir.convenience.replace_nodes_and_values(graph, node, [node], [rows, cast], node.outputs, cast.outputs)


def _external(name: str, item: Mapping[str, Any], begin: int, kind: ir.DataType) -> ir.ExternalTensor:
    start, end = item["data_offsets"]
    return ir.ExternalTensor(WEIGHTS_FILE, begin + start, end - start, kind, shape=ir.Shape(item["shape"]), name=name)


def _no_value(name: str) -> PassFailed:
    mend = "register it persistent and save the weights again, or compute it in forward"
    return PassFailed(f"convert: the buffer {name} is computed from weights, which are too large to be built; {mend}")
