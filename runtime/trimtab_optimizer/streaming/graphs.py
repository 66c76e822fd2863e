"""What passes ask of a graph, whatever they do to it."""

from collections.abc import Iterator

from onnx import GraphProto, ModelProto, NodeProto


def opset_of(model: ModelProto) -> int:
    """Return the version of ONNX's own operators that a model uses."""
    return next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 1)


def all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield every node, also those of branches and loops."""
    for node in graph.node:
        yield node
        for inner in _inner_graphs(node):
            yield from all_nodes(inner)


def values_read(node: NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, its branches and loops included; of those some are their own."""
    yield from (name for name in node.input if name)
    for graph in _inner_graphs(node):
        for inner in all_nodes(graph):
            yield from (name for name in inner.input if name)
        yield from (value.name for value in graph.output)


def _inner_graphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        yield from attribute.graphs
        if attribute.HasField("g"):
            yield attribute.g


def free_prefix(graph: GraphProto) -> str:
    """Return a beginning that no name of the graph has, for the names that are made."""
    names = {tensor.name for tensor in graph.initializer} | {value.name for value in (*graph.input, *graph.output)}
    for node in all_nodes(graph):
        names.update(node.input, node.output)
    number = 0
    while any(name.startswith(f"trimtab{number}.") for name in names):
        number += 1
    return f"trimtab{number}."
