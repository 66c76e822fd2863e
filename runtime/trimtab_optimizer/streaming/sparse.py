"""Sparse weights in ONNX: a bit for each value that says whether it is zero, and the others one after the other.

That is 1/32 of the dense size and the share of values that are not zero, so it is smaller from 4 % of zeros on; ONNX's
own sparse_initializer spends 8 bytes on each index, and is smaller from 67 % on. The graph puts the dense weight
together with standard operators over constants, which ONNX Runtime computes once, when it loads the model: serving is
as fast as dense. Only operators whose results have a known shape are computed then, so NonZero and ScatterElements,
which would be the shorter way, are not among them. Loading takes for a moment about six times the dense weights.

Which weights are packed stands in the model's metadata, so that a later pass can unpack them.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from trimtab_optimizer.streaming.carrying import Work, carry_out, copies, replace_tensors
from trimtab_optimizer.streaming.magnitudes import pieces
from trimtab_optimizer.streaming.output import Output, Place
from trimtab_optimizer.streaming.weights import Weight, stored_bytes

OPSET: Final = 18  # the first with BitwiseAnd

_METADATA: Final = "trimtab.sparse"
_STRIP: Final = 1 << 23  # bits unpacked at once
_ZERO: Final = np.zeros(1, np.float32)  # what stands before the values that are kept, for all that are not
_WORTH: Final = 0.95  # of the dense size


@dataclass(frozen=True, slots=True)
class Packed:
    """The names of what stands for a weight, for its way back."""

    mask: str
    values: str
    dims: tuple[int, ...]
    nodes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it for the model's metadata."""
        return {"mask": self.mask, "values": self.values, "dims": self.dims, "nodes": self.nodes}


def is_worth_it(weight: Weight, kept: int) -> bool:
    """Say whether a float32 weight with so many values that are not zero is smaller when packed."""
    return weight.dtype == np.float32 and packed_bytes(weight, kept) < _WORTH * weight.count * 4


def packed_bytes(weight: Weight, kept: int) -> int:
    """Return the bytes of mask and values of a weight with so many values that are not zero."""
    return -(-weight.count // 8) + (kept + 1) * 4


def pack(weight: Weight, kept: int, prefix: str, output: Output) -> tuple[Packed, list[NodeProto], Work]:
    """Reserve mask and values of a weight; return their names, the nodes that make it, and the work that fills them."""
    name = f"{prefix}{weight.name}"
    size = -(-weight.count // 8)
    mask = output.reserve(f"{name}_mask", TensorProto.UINT8, (size,), size)
    values = output.reserve(f"{name}_kept", TensorProto.FLOAT, (kept + 1,), (kept + 1) * 4)
    nodes = list(_nodes(weight, name))
    packed = Packed(mask.name, values.name, weight.dims, tuple(node.name for node in nodes))
    return packed, nodes, partial(_fill, weight, output, mask, values)


def remember(model: ModelProto, packed: Mapping[str, Packed]) -> None:
    """Write into a model which of its weights are packed."""
    text = json.dumps({name: item.to_dict() for name, item in packed.items()}, sort_keys=True)
    model.metadata_props.add(key=_METADATA, value=text)


def packed_in(model: ModelProto) -> dict[str, Packed]:
    """Return the packed weights of a model, by name."""
    text = next((item.value for item in model.metadata_props if item.key == _METADATA), "{}")
    return {
        name: Packed(item["mask"], item["values"], tuple(item["dims"]), tuple(item["nodes"]))
        for name, item in json.loads(text).items()
    }


def kept_in(file: Path) -> dict[str, int]:
    """Return how many values that are not zero each packed weight of a graph has, by name."""
    model = onnx.load(file, load_external_data=False)
    lengths = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if tensor.dims}
    return {name: lengths[item.values] - 1 for name, item in packed_in(model).items()}


def unpack(source: Path, target: Path) -> bool:
    """Write a graph with its packed weights dense again; False, and nothing written, where it has none."""
    model = onnx.load(source, load_external_data=False)
    packed = packed_in(model)
    if not packed:
        return False
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    gone = {name for item in packed.values() for name in (item.mask, item.values)}
    with Output(target.with_name(f"{target.name}.data")) as output:
        work = list(_unpacking(packed, tensors, source.parent, output))
        carry_out([*work, *copies(graph, source.parent, output, gone)])
        _forget(model, packed)
        replace_tensors(graph, output, gone)
    onnx.save(model, target)
    return True


def _nodes(weight: Weight, name: str) -> Iterator[NodeProto]:
    """Yield the nodes that put a weight together from its mask and its values."""

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
        return helper.make_node(kind, inputs, [output], name=f"{output}_{kind}".lower(), **attributes)

    def constant(part: str, values: NDArray[Any]) -> NodeProto:
        return node("Constant", [], f"{name}_{part}", value=numpy_helper.from_array(values))

    yield constant("first", np.array([0], np.int64))
    yield constant("second", np.array([1], np.int64))
    yield constant("places", (1 << np.arange(8)).astype(np.uint8))
    yield constant("axis", np.array(0, np.int64))
    yield constant("count", np.array([weight.count], np.int64))
    yield constant("flat", np.array([-1], np.int64))
    yield constant("dims", np.array(weight.dims, np.int64))
    yield node("Unsqueeze", [f"{name}_mask", f"{name}_second"], f"{name}_bytes")
    yield node("BitwiseAnd", [f"{name}_bytes", f"{name}_places"], f"{name}_bits")
    yield node("Cast", [f"{name}_bits"], f"{name}_set", to=TensorProto.BOOL)
    yield node("Reshape", [f"{name}_set", f"{name}_flat"], f"{name}_row")
    yield node("Slice", [f"{name}_row", f"{name}_first", f"{name}_count"], f"{name}_chosen")
    yield node("Cast", [f"{name}_chosen"], f"{name}_ones", to=TensorProto.INT32)
    yield node("CumSum", [f"{name}_ones", f"{name}_axis"], f"{name}_ranks")
    yield node("Mul", [f"{name}_ranks", f"{name}_ones"], f"{name}_index")  # 0 for zeros, else the place from 1 on
    yield node("Gather", [f"{name}_kept", f"{name}_index"], f"{name}_dense", axis=0)
    yield node("Reshape", [f"{name}_dense", f"{name}_dims"], weight.name)


def _fill(weight: Weight, output: Output, mask: Place, values: Place) -> None:
    """Write mask and values in order; bits that fill no byte wait for the next piece."""
    waiting, bits_at, values_at = np.zeros(0, np.bool_), 0, _ZERO.nbytes
    output.write(values, 0, _ZERO)
    for rows in pieces(weight):
        piece = weight.read(rows).reshape(-1)
        chosen = piece != 0
        kept = piece[chosen]
        output.write(values, values_at, kept)
        values_at += kept.nbytes
        bits = np.concatenate([waiting, chosen])
        whole = len(bits) // 8 * 8
        output.write(mask, bits_at, np.packbits(bits[:whole], bitorder="little"))
        waiting, bits_at = bits[whole:], bits_at + whole // 8
    output.write(mask, bits_at, np.packbits(waiting, bitorder="little"))


def _unpacking(
    packed: Mapping[str, Packed], tensors: Mapping[str, TensorProto], folder: Path, output: Output
) -> Iterator[Work]:
    for name, item in packed.items():
        count = int(np.prod(item.dims, dtype=np.int64))
        place = output.reserve(name, TensorProto.FLOAT, item.dims, count * 4)
        mask, values = (stored_bytes(tensors[part], folder) for part in (item.mask, item.values))
        yield partial(_unpack_one, mask, values, count, output, place)


def _unpack_one(mask: Weight, values: Weight, count: int, output: Output, place: Place) -> None:
    taken = 1
    for start in range(0, count, _STRIP):
        length = min(_STRIP, count - start)
        packed = np.frombuffer(mask.read_raw(start // 8, -(-length // 8)), np.uint8)
        chosen = np.unpackbits(packed, count=length, bitorder="little").astype(np.bool_)
        dense = np.zeros(length, np.float32)
        kept = int(chosen.sum())
        dense[chosen] = np.frombuffer(values.read_raw(taken * 4, kept * 4), np.float32)
        output.write(place, start * 4, dense)
        taken += kept


def _forget(model: ModelProto, packed: Mapping[str, Packed]) -> None:
    gone = {name for item in packed.values() for name in item.nodes}
    left = [node for node in model.graph.node if node.name not in gone]
    del model.graph.node[:]
    model.graph.node.extend(left)
    props = [item for item in model.metadata_props if item.key != _METADATA]
    del model.metadata_props[:]
    model.metadata_props.extend(props)


def first_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    """Put nodes before all others, since a graph is sorted by what needs what."""
    others = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *others])
