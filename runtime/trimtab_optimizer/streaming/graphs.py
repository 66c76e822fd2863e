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
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from all_nodes(inner)


def free_prefix(graph: GraphProto) -> str:
    """Return a beginning that no name of the graph has, for the names that are made."""
    names = {tensor.name for tensor in graph.initializer} | {value.name for value in (*graph.input, *graph.output)}
    for node in all_nodes(graph):
        names.update(node.input, node.output)
    number = 0
    while any(name.startswith(f"trimtab{number}.") for name in names):
        number += 1
    return f"trimtab{number}."
