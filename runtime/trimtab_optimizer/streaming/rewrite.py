"""Rewrite a graph: every matrix product with a constant operand gets its weights in another form.

The graph itself is small and held in memory; weights are read, computed and written in pieces by a few threads, each of
which does all three, so that disk and cores are busy at the same time (numpy and the system calls let the others run).
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper

from trimtab_optimizer.streaming.output import Output, Place
from trimtab_optimizer.streaming.schemes import MICROSOFT, Matrix, Scheme, Work
from trimtab_optimizer.streaming.weights import Weight, stored_bytes, weight_of

_COPY: Final = 8 << 20
_SMALLEST: Final = 64  # inputs below which there is nothing to gain


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What was done: names of the matrices in their new form, and of float matrices that were left as they are."""

    changed: tuple[str, ...]
    left: tuple[str, ...]


def rewrite(source: Path, target: Path, scheme: Scheme, threads: int | None = None) -> Rewritten:
    """Write `source` to `target` with its matrices stored by a scheme. Raises InvalidPackage for broken weights.

    Large results keep their tensors in `target` + `.data`. Memory: a few tens of MB for each thread.
    """
    model = onnx.load(source, load_external_data=False)
    graph, data = model.graph, target.with_name(f"{target.name}.data")
    matrices = find_matrices(graph, source.parent)
    with Output(data) as output:
        work = [piece for matrix in _each_once(matrices) for piece in scheme.work(matrix, output)]
        work += _copies(graph, source.parent, output, {matrix.weight.name for matrix in matrices.values()})
        _carry_out(work, threads or os.cpu_count() or 1)
        _replace_nodes(graph, matrices, scheme)
        _replace_tensors(graph, output, {matrix.weight.name for matrix in matrices.values()})
        inline = output.is_inline
    if inline:
        data.unlink()
    if all(item.domain != MICROSOFT for item in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    onnx.save(model, target)
    changed = tuple(sorted({matrix.weight.name for matrix in matrices.values()}))
    return Rewritten(changed, tuple(sorted(_float_matrices(graph))))


def find_matrices(graph: GraphProto, folder: Path) -> dict[str, Matrix]:
    """Return the matrix products that can be rewritten, by the name of their result.

    The weight has to be a constant float matrix that nothing but such products reads, in one orientation.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    found = {node.output[0]: (node, _orientation(node)) for node in graph.node if _is_product(node, tensors)}
    uses: dict[str, set[bool | None]] = {}
    for node in _all_nodes(graph):
        transposed = found[node.output[0]][1] if node.output and node.output[0] in found else None
        for position, name in enumerate(node.input):
            uses.setdefault(name, set()).add(transposed if position == 1 else None)
    for value in graph.output:
        uses.setdefault(value.name, set()).add(None)
    matrices = {}
    for result, (node, transposed) in found.items():
        weight = weight_of(tensors[node.input[1]], folder)
        if weight and uses[weight.name] == {transposed} and weight.rows * weight.columns >= _SMALLEST:
            matrices[result] = Matrix(weight, transposed)
    return matrices


def _is_product(node: NodeProto, tensors: dict[str, TensorProto]) -> bool:
    if node.op_type not in ("MatMul", "Gemm") or node.domain or node.input[1] not in tensors:
        return False
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    values = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    return len(tensors[node.input[1]].dims) == 2 and all(values.get(name, plain[name]) == plain[name] for name in plain)


def _orientation(node: NodeProto) -> bool:
    return any(item.name == "transB" and item.i for item in node.attribute)


def _all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield every node, also those of branches and loops."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _all_nodes(inner)


def _each_once(matrices: dict[str, Matrix]) -> list[Matrix]:
    return list({matrix.weight.name: matrix for matrix in matrices.values()}.values())


def _copies(graph: GraphProto, folder: Path, output: Output, changed: set[str]) -> list[Work]:
    """Return the work that copies every other tensor that lies outside the graph."""
    work: list[Work] = []
    for tensor in graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL and tensor.name not in changed:
            stored = stored_bytes(tensor, folder)
            place = output.reserve(tensor.name, tensor.data_type, tuple(tensor.dims), stored.columns)
            work += [partial(_copy, stored, output, place, start) for start in range(0, stored.columns, _COPY)]
    return work


def _copy(stored: Weight, output: Output, place: Place, start: int) -> None:
    output.write(place, start, stored.read_raw(start, min(_COPY, stored.columns - start)))


def _carry_out(work: list[Callable[[], None]], threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        waiting = [pool.submit(piece) for piece in work]
        try:
            for future in waiting:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _replace_nodes(graph: GraphProto, matrices: dict[str, Matrix], scheme: Scheme) -> None:
    nodes: dict[str, NodeProto] = {}
    for node in graph.node:
        matrix = matrices.get(node.output[0]) if node.output else None
        for made in _product(node, matrix, scheme) if matrix else [node]:
            nodes.setdefault(made.output[0], made)  # what two products need of the same data is computed once
    del graph.node[:]
    graph.node.extend(nodes.values())


def _product(node: NodeProto, matrix: Matrix, scheme: Scheme) -> list[NodeProto]:
    """Return the nodes of one product; the bias of a Gemm is added afterwards."""
    result = node.output[0]
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else ""
    if not bias:
        return scheme.nodes(matrix, node.input[0], result)
    product = f"{result}_product"
    add = helper.make_node("Add", [product, bias], [result], name=f"{result}_bias")
    return [*scheme.nodes(matrix, node.input[0], product), add]


def _replace_tensors(graph: GraphProto, output: Output, changed: set[str]) -> None:
    made = output.tensors()
    names = changed | {tensor.name for tensor in made}
    kept = [tensor for tensor in graph.initializer if tensor.name not in names]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *made])
    inputs = [value for value in graph.input if value.name not in changed]
    del graph.input[:]
    graph.input.extend(inputs)


def _float_matrices(graph: GraphProto) -> Iterator[str]:
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) >= 2:
            yield tensor.name
