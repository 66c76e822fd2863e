"""Rewrite a graph: every matrix product with a constant operand gets its weights in another form.

The graph itself is small and held in memory; weights are read, computed and written in pieces by a few threads, each of
which does all three, so that disk and cores are busy at the same time (numpy and the system calls let the others run).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from trimtab_api.errors import PassFailed
from trimtab_optimizer.streaming.carrying import carry_out, copies, replace_tensors
from trimtab_optimizer.streaming.graphs import all_nodes, free_prefix, opset_of
from trimtab_optimizer.streaming.journal import Journal
from trimtab_optimizer.streaming.links import Origin, Use, origins, remove_dead_links, uses
from trimtab_optimizer.streaming.matrices import Matrix
from trimtab_optimizer.streaming.output import Output
from trimtab_optimizer.streaming.reweigh import dense_work, edited_weights, key_of
from trimtab_optimizer.streaming.schemes import MICROSOFT, Scheme
from trimtab_optimizer.streaming.weights import Edits, weight_of

_SMALLEST: Final = 64  # weights below which there is nothing to gain
COMPILED: Final = 1 << 32  # weights from which on compiling is worth its seconds, and its 200 MB of memory


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What was done: names of the matrices in their new form, and of float matrices that were left as they are."""

    changed: tuple[str, ...]
    left: tuple[str, ...]


def rewrite(
    source: Path,
    target: Path,
    scheme: Scheme,
    threads: int | None = None,
    key: str | None = None,
    edits: Edits = MappingProxyType({}),
) -> Rewritten:
    """Write `source` to `target` with its matrices stored by a scheme. The graph appears last, and whole.

    With a `key`, that of the weights, a second call goes on where one that was killed was, in the same folder.
    `edits` are those that weights get first, by name.

    Raises InvalidPackage for broken weights, and PassFailed for a graph that this cannot carry over.

    Large results keep their tensors in `target` + `.data`. Memory: a few tens of MB for each thread.
    """
    model = onnx.load(source, load_external_data=False)
    graph, data = model.graph, target.with_name(f"{target.name}.data")
    _check(model, scheme)
    counts = {name: len(items) for name, items in edits.items()}
    journal = Journal(target, key_of(f"{key} {scheme!r}" if key else None, model, counts))
    matrices = {
        result: matrix
        for result, matrix in find_matrices(graph, source.parent, edits).items()
        if scheme.is_faster or not matrix.is_kept  # a second form of a table is not smaller
    }
    with Output(data, journal.goes_on) as output:
        work = [piece for matrix in _to_compute(matrices) for piece in scheme.work(matrix, output)]
        replaced = {matrix.weight.name for matrix in matrices.values() if not matrix.is_kept}
        still_floats = [item for item in edited_weights(graph, source.parent, edits) if item.name not in replaced]
        work += [piece for weight in still_floats for piece in dense_work(weight, output)]
        replaced |= {weight.name for weight in still_floats}
        work += copies(graph, source.parent, output, replaced)
        carry_out(journal.left(work, output), threads)
        _replace_nodes(graph, matrices, scheme)
        replace_tensors(graph, output, replaced)
    if all(item.domain != MICROSOFT for item in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    _save(model, target)
    journal.forget()
    changed = tuple(sorted({matrix.weight.name for matrix in matrices.values()}))
    return Rewritten(changed, tuple(sorted(_float_matrices(graph))))


def _save(model: ModelProto, target: Path) -> None:
    """Write a graph under another name first: nobody may read half of it."""
    unfinished = target.with_name(f"{target.name}.unfinished")
    onnx.save(model, unfinished)
    unfinished.replace(target)


def find_matrices(graph: GraphProto, folder: Path, edits: Edits = MappingProxyType({})) -> dict[str, Matrix]:
    """Return the matrix products that can be rewritten, by the name of their result.

    The weight has to be a constant float matrix that such products read in one orientation. What looks up rows may read
    it as well, as with tied embeddings: it then stays beside its new form. Nothing else may.
    """
    values, prefix = origins(graph), free_prefix(graph)
    products = {node.output[0]: node for node in graph.node if _is_product(node, values)}
    ways = {result: _way(node, values[node.input[1]]) for result, node in products.items()}
    found = uses(graph, values, ways)
    tensors = {result: values[node.input[1]].tensor for result, node in products.items()}
    weights = {item.name: replace(weight_of(item, folder), edits=edits.get(item.name, ())) for item in tensors.values()}
    matrices = {}
    for result, node in products.items():
        weight, way = weights[tensors[result].name], ways[result]
        if found[weight.name] <= {way, Use.TABLE} and weight.count >= _SMALLEST:
            kept = Use.TABLE in found[weight.name]
            matrices[result] = Matrix(weight, way is Use.TRANSPOSED_PRODUCT, prefix, node.op_type == "Gemm", kept)
    return matrices


def _check(model: ModelProto, scheme: Scheme) -> None:
    opset = opset_of(model)
    if opset < scheme.opset:
        raise PassFailed(f"quantize needs opset {scheme.opset} and the graph has {opset}; export the model again")
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in _inner_tensors(model)):
        raise PassFailed("quantize: a branch, a loop or a node keeps tensors beside the graph; save them within it")


def _inner_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield the tensors of nodes, branches, loops and functions: all that are no initializers of the graph."""
    functions = (node for function in model.functions for node in function.node)
    for node in (*all_nodes(model.graph), *functions):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from inner.initializer
    for sparse in model.graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)


def _is_product(node: NodeProto, values: Mapping[str, Origin]) -> bool:
    if node.op_type not in ("MatMul", "Gemm") or node.domain or node.input[1] not in values:
        return False
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    is_float = values[node.input[1]].data_type == TensorProto.FLOAT
    return is_float and all(given.get(name, plain[name]) == plain[name] for name in plain)


def _way(node: NodeProto, origin: Origin) -> Use:
    flips = any(item.name == "transB" and item.i for item in node.attribute)
    return Use.TRANSPOSED_PRODUCT if flips != origin.flipped else Use.PRODUCT


def _to_compute(matrices: dict[str, Matrix]) -> list[Matrix]:
    """Return each matrix once, and know whether there are enough values for code that has to be compiled first."""
    found = {matrix.weight.name: matrix for matrix in matrices.values()}
    compiles = sum(matrix.weight.count for matrix in found.values()) >= COMPILED
    return [replace(matrix, compiles=compiles) for matrix in found.values()]


def _replace_nodes(graph: GraphProto, matrices: dict[str, Matrix], scheme: Scheme) -> None:
    nodes: list[NodeProto] = []
    seen: set[str] = set()
    for node in graph.node:
        matrix = matrices.get(node.output[0]) if node.output else None
        made = _product(node, matrix, scheme) if matrix else []
        # What two products need of the same data is computed once.
        nodes += [item for item in made if item.output[0] not in seen] if matrix else [node]
        seen.update(item.output[0] for item in made)
    links = origins(graph)
    del graph.node[:]
    graph.node.extend(nodes)
    remove_dead_links(graph, links)


def _product(node: NodeProto, matrix: Matrix, scheme: Scheme) -> list[NodeProto]:
    """Return the nodes of one product; the bias of a Gemm is added afterwards."""
    result = node.output[0]
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else ""
    if not bias:
        return scheme.nodes(matrix, node.input[0], result)
    product = matrix.made(f"{result}_product")
    add = helper.make_node("Add", [product, bias], [result], name=f"{result}_bias")
    return [*scheme.nodes(matrix, node.input[0], product), add]


def _float_matrices(graph: GraphProto) -> Iterator[str]:
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) >= 2:
            yield tensor.name
