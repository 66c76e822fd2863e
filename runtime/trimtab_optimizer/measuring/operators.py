"""Which operators a graph has: what a pass replaced can be seen without opening the file."""

from collections import Counter

import onnx

from trimtab_api.spec import ModelFormat
from trimtab_optimizer.litert.file import count_litert_operators
from trimtab_optimizer.package import Model
from trimtab_optimizer.streaming.graphs import all_nodes


def count_operators(model: Model) -> dict[str, int] | None:
    """Return the operators of an ONNX or LiteRT model, branches and loops included; None for a module."""
    if model.package.format is ModelFormat.LITERT:
        return count_litert_operators(model.weights)
    if model.package.format not in (ModelFormat.ONNX, ModelFormat.GENAI):
        return None
    graph = onnx.load(model.weights, load_external_data=False).graph
    return dict(Counter(node.op_type for node in all_nodes(graph)))
