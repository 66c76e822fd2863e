"""Who reads a weight, and what stands in between: Cast, Transpose and Identity.

Exporters write them where a checkpoint keeps another type or orientation than the operator wants.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from onnx import GraphProto, NodeProto, TensorProto, helper

from trimtab_optimizer.streaming.graphs import all_nodes

_FLOATS: Final = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from: a stored matrix, as it is or transposed; and the type that it has by now."""

    tensor: TensorProto
    flipped: bool
    data_type: int


class Use(Enum):
    """How a weight is read."""

    PRODUCT = "as [inputs, outputs] of a product"
    TRANSPOSED_PRODUCT = "as [outputs, inputs] of a product"
    TABLE = "row by row"
    OTHER = "in another way"


def origins(graph: GraphProto) -> dict[str, Origin]:
    """Return every value that is a constant float matrix in another form. Nodes are in the order of computation."""
    found = {
        tensor.name: Origin(tensor, False, tensor.data_type)
        for tensor in graph.initializer
        if tensor.data_type in _FLOATS and len(tensor.dims) == 2
    }
    for node in graph.node:
        before = found.get(node.input[0]) if len(node.input) == 1 else None
        after = _behind(node, before) if before else None
        if after:
            found[node.output[0]] = after
    return found


def uses(graph: GraphProto, values: Mapping[str, Origin], products: Mapping[str, Use]) -> dict[str, set[Use]]:
    """Return how each stored matrix is read; `products` are the results of products, with the use of their weights."""
    found: dict[str, set[Use]] = {}
    for node in all_nodes(graph):
        result = node.output[0] if node.output else ""
        for position, name in enumerate(node.input):
            if name in values and result not in values:
                found.setdefault(values[name].tensor.name, set()).add(_use(node, position, products.get(result)))
    for value in graph.output:
        if value.name in values:
            found.setdefault(values[value.name].tensor.name, set()).add(Use.OTHER)
    return found


def remove_dead_links(graph: GraphProto, links: Mapping[str, Origin]) -> None:
    """Take out nodes of links that nothing reads any more."""
    readers = Counter(value.name for value in graph.output)
    readers.update(name for node in all_nodes(graph) for name in node.input)
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if node.output and node.output[0] in links and not readers[node.output[0]]:
            readers[node.input[0]] -= 1
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))


def _use(node: NodeProto, position: int, of_product: Use | None) -> Use:
    if of_product and position == 1:
        return of_product
    return Use.TABLE if node.op_type == "Gather" and position == 0 else Use.OTHER


def _behind(node: NodeProto, before: Origin) -> Origin | None:
    """Return what a node makes of a weight, if it changes its form only."""
    values = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    if node.domain:
        return None
    if node.op_type == "Identity":
        return before
    if node.op_type == "Cast" and values.get("to") in _FLOATS:
        return Origin(before.tensor, before.flipped, values["to"])
    if node.op_type == "Transpose" and list(values.get("perm", [1, 0])) == [1, 0]:
        return Origin(before.tensor, not before.flipped, before.data_type)
    return None
