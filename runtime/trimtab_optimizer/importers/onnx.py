"""ONNX packages: the graph is checked, held against model.yaml, and laid out like an artifact."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from trimtab_api.errors import InvalidPackage
from trimtab_api.package import ONNX_FILE, Tensor
from trimtab_optimizer.package import Model, confined, write_package
from trimtab_optimizer.tensors import check_shape, dtype_of


def import_onnx(model: Model, target: Path) -> Model:
    """Check an ONNX package and lay graph and external data out in `target`. Raises InvalidPackage."""
    source = model.weights
    proto = load_graph(source)
    external = {name: confined(source.parent, name) for name in external_files(proto)}
    _check(source)
    _compare("input", _inputs(proto.graph), model.package.inputs)
    _compare("output", list(proto.graph.output), model.package.outputs)
    target.mkdir(parents=True)
    shutil.copyfile(source, target / ONNX_FILE)
    for name, path in external.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)  # no link: onnx.checker refuses those
    return write_package(target, model.package.model_copy(update={"weights": ONNX_FILE, "entrypoint": None}))


def external_files(proto: onnx.ModelProto) -> list[str]:
    """Return the names of the files a graph keeps tensors in, as the graph gives them."""
    found = []
    for tensor in _tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            found += [item.value for item in tensor.external_data if item.key == "location"]
    return list(dict.fromkeys(found))


def load_graph(path: Path) -> onnx.ModelProto:
    """Read a graph without its external data. Raises InvalidPackage for what is none."""
    try:
        return onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise InvalidPackage(f"{path.name} is not an ONNX file ({error}); export the model again") from error


def _check(path: Path) -> None:
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise InvalidPackage(f"{path.name} is not valid ONNX: {' '.join(str(error).split())[:500]}") from error


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from _graph_tensors(proto.graph)
    for function in proto.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for graph in (attribute.g, *attribute.graphs):
            yield from _graph_tensors(graph)


def _inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def _compare(what: str, values: list[onnx.ValueInfoProto], tensors: tuple[Tensor, ...]) -> None:
    found = {value.name: value for value in values}
    wanted = {tensor.name for tensor in tensors}
    wrong = set(found) ^ wanted if what == "input" else wanted - set(found)  # outputs may be left out
    if wrong:
        raise InvalidPackage(f"the graph has the {what}s {sorted(found)}, model.yaml says {sorted(wanted)}")
    for tensor in tensors:
        _compare_one(what, found[tensor.name].type.tensor_type, tensor)


def _compare_one(what: str, found: onnx.TypeProto.Tensor, tensor: Tensor) -> None:
    if found.elem_type != onnx.helper.np_dtype_to_tensor_dtype(dtype_of(tensor)):
        name = onnx.TensorProto.DataType.Name(found.elem_type)
        raise InvalidPackage(f"{what} {tensor.name} is {name}, model.yaml says {tensor.datatype}")
    if not found.HasField("shape"):
        return
    lengths = [axis.dim_value if axis.HasField("dim_value") else -1 for axis in found.shape.dim]
    if lengths and lengths[0] >= 0:
        mend = "export it again with a dynamic first axis"
        raise InvalidPackage(f"{what} {tensor.name} has the fixed batch size {lengths[0]}; {mend}")
    check_shape(what, tensor, lengths)
