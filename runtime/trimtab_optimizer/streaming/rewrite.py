"""Rewrite a graph: every matrix product with a constant operand gets its weights in another form.

The graph itself is small and held in memory; weights are read, computed and written in pieces by a few threads, each of
which does all three, so that disk and cores are busy at the same time (numpy and the system calls let the others run).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from trimtab_api.errors import PassFailed
from trimtab_optimizer.streaming.carrying import carry_out, copies, replace_tensors
from trimtab_optimizer.streaming.graphs import all_nodes, free_prefix, opset_of
from trimtab_optimizer.streaming.journal import Journal
from trimtab_optimizer.streaming.output import Output
from trimtab_optimizer.streaming.schemes import MICROSOFT, Matrix, Scheme
from trimtab_optimizer.streaming.weights import weight_of

_SMALLEST: Final = 64  # weights below which there is nothing to gain


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What was done: names of the matrices in their new form, and of float matrices that were left as they are."""

    changed: tuple[str, ...]
    left: tuple[str, ...]


def rewrite(
    source: Path, target: Path, scheme: Scheme, threads: int | None = None, key: str | None = None
) -> Rewritten:
    """Write `source` to `target` with its matrices stored by a scheme. The graph appears last, and whole.

    With a `key`, that of the weights, a second call goes on where one that was killed was, in the same folder.

    Raises InvalidPackage for broken weights, and PassFailed for a graph that this cannot carry over.

    Large results keep their tensors in `target` + `.data`. Memory: a few tens of MB for each thread.
    """
    model = onnx.load(source, load_external_data=False)
    graph, data = model.graph, target.with_name(f"{target.name}.data")
    _check(model, scheme)
    journal = _journal_of(model, target, scheme, key) if key else None
    matrices = find_matrices(graph, source.parent)
    with Output(data, bool(journal and journal.goes_on)) as output:
        work = [piece for matrix in _each_once(matrices) for piece in scheme.work(matrix, output)]
        work += copies(graph, source.parent, output, {matrix.weight.name for matrix in matrices.values()})
        carry_out(journal.left(work, output) if journal else work, threads)
        _replace_nodes(graph, matrices, scheme)
        replace_tensors(graph, output, {matrix.weight.name for matrix in matrices.values()})
    if all(item.domain != MICROSOFT for item in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    _save(model, target)
    if journal:
        journal.forget()
    changed = tuple(sorted({matrix.weight.name for matrix in matrices.values()}))
    return Rewritten(changed, tuple(sorted(_float_matrices(graph))))


def _journal_of(model: ModelProto, target: Path, scheme: Scheme, key: str) -> Journal:
    """Return the journal of this work, beside its output."""
    graph = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    return Journal(target.with_name(f"{target.name}.journal"), f"{key} {graph} {scheme!r}")


def _save(model: ModelProto, target: Path) -> None:
    """Write a graph under another name first: nobody may read half of it."""
    unfinished = target.with_name(f"{target.name}.unfinished")
    onnx.save(model, unfinished)
    unfinished.replace(target)


def find_matrices(graph: GraphProto, folder: Path) -> dict[str, Matrix]:
    """Return the matrix products that can be rewritten, by the name of their result.

    The weight has to be a constant float matrix that nothing but such products reads, in one orientation.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    found = {node.output[0]: (node, _orientation(node)) for node in graph.node if _is_product(node, tensors)}
    uses: dict[str, set[bool | None]] = {}
    for node in all_nodes(graph):
        transposed = found[node.output[0]][1] if node.output and node.output[0] in found else None
        for position, name in enumerate(node.input):
            uses.setdefault(name, set()).add(transposed if position == 1 else None)
    for value in graph.output:
        uses.setdefault(value.name, set()).add(None)
    prefix = free_prefix(graph)
    weights = {name: weight_of(tensors[name], folder) for name in {node.input[1] for node, _ in found.values()}}
    matrices = {}
    for result, (node, transposed) in found.items():
        weight = weights[node.input[1]]
        if weight and uses[weight.name] == {transposed} and weight.rows * weight.columns >= _SMALLEST:
            matrices[result] = Matrix(weight, transposed, prefix)
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


def _is_product(node: NodeProto, tensors: dict[str, TensorProto]) -> bool:
    if node.op_type not in ("MatMul", "Gemm") or node.domain or node.input[1] not in tensors:
        return False
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    values = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    return len(tensors[node.input[1]].dims) == 2 and all(values.get(name, plain[name]) == plain[name] for name in plain)


def _orientation(node: NodeProto) -> bool:
    return any(item.name == "transB" and item.i for item in node.attribute)


def _each_once(matrices: dict[str, Matrix]) -> list[Matrix]:
    return list({matrix.weight.name: matrix for matrix in matrices.values()}.values())


def _replace_nodes(graph: GraphProto, matrices: dict[str, Matrix], scheme: Scheme) -> None:
    nodes: list[NodeProto] = []
    seen: set[str] = set()
    for node in graph.node:
        matrix = matrices.get(node.output[0]) if node.output else None
        made = _product(node, matrix, scheme) if matrix else []
        # What two products need of the same data is computed once.
        nodes += [item for item in made if item.output[0] not in seen] if matrix else [node]
        seen.update(item.output[0] for item in made)
    del graph.node[:]
    graph.node.extend(nodes)


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
