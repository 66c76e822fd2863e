"""Write a model with other values in its weights: ONNX (dense, or sparse where that is smaller) and safetensors."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import ml_dtypes
import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from trimtab_api.errors import PassFailed
from trimtab_optimizer.streaming.carrying import Work, carry_out, copies, replace_tensors
from trimtab_optimizer.streaming.edits import Edit, Unchanged
from trimtab_optimizer.streaming.graphs import all_nodes, free_prefix, opset_of
from trimtab_optimizer.streaming.magnitudes import strips
from trimtab_optimizer.streaming.output import Output, Place
from trimtab_optimizer.streaming.sparse import (
    OPSET,
    Packed,
    count_kept,
    first_nodes,
    is_worth_it,
    pack,
    remember,
    unpack,
)
from trimtab_optimizer.streaming.weights import Weight, stored_weights, weight_of

_READERS: Final = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})
_FLOATS: Final = frozenset({np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)})

Choice = Callable[[Sequence[Weight]], Edit]


@dataclass(frozen=True, slots=True)
class Reweighed:
    """What was done: how many values the weights have, and how many of them are zero now; which are stored sparse."""

    weights: tuple[str, ...]
    values: int
    zeros: int
    sparse: tuple[str, ...] = ()


def reweigh_onnx(source: Path, target: Path, scratch: Path, choose: Choice, ignored: tuple[str, ...]) -> Reweighed:
    """Write a graph with the edit that `choose` makes of its weights. Weights that are mostly zero become sparse.

    Raises PassFailed where no weight is left, or `ignored` names none of them.
    """
    dense = scratch / "dense.onnx"
    source = dense if unpack(source, dense) else source
    model = onnx.load(source, load_external_data=False)
    weights = _chosen_weights(_graph_weights(model.graph, source.parent), ignored)
    edit = choose(weights)
    return _write_onnx(model, source.parent, target, weights, edit, _kept(weights, edit))


def store_sparse(file: Path, scratch: Path) -> tuple[str, ...]:
    """Rewrite a graph in place so that weights that are mostly zero become sparse, and return their names."""
    model = onnx.load(file, load_external_data=False)
    weights = _graph_weights(model.graph, file.parent)
    kept = _kept(weights, Unchanged())
    if not any(is_worth_it(weight, kept[weight.name]) for weight in weights):
        return ()
    made = scratch / "sparse"
    made.mkdir()
    found = _write_onnx(model, file.parent, made / file.name, weights, Unchanged(), kept)
    for path in (file, file.with_name(f"{file.name}.data")):
        path.unlink(missing_ok=True)
    for path in made.iterdir():
        shutil.move(path, file.with_name(path.name))
    return found.sparse


def reweigh_safetensors(source: Path, target: Path, choose: Choice, ignored: tuple[str, ...]) -> Reweighed:
    """Write a safetensors file with the edit that `choose` makes of its matrices. Raises as reweigh_onnx does."""
    stored = stored_weights(source).values()
    weights = _chosen_weights([item for item in stored if len(item.dims) > 1 and item.dtype in _FLOATS], ignored)
    edit = choose(weights)
    shutil.copyfile(source, target)
    carry_out([partial(_overwrite, weight, edit, target) for weight in weights])
    return _reweighed(weights, _kept(weights, edit))


def _chosen_weights(weights: Sequence[Weight], ignored: tuple[str, ...]) -> list[Weight]:
    """Return the weights that no name in `ignored` covers: a layer's name covers all that begins with it."""
    names = {weight.name: weight.name.removeprefix("module.") for weight in weights}
    unknown = [layer for layer in ignored if not any(_covers(layer, name) for name in names.values())]
    if unknown:
        listed = ", ".join(list(names.values())[:20]) or "none"
        raise PassFailed(f"there is no layer `{unknown[0]}` to ignore; weights are: {listed}")
    left = [weight for weight in weights if not any(_covers(layer, names[weight.name]) for layer in ignored)]
    if not left:
        raise PassFailed("the model has no weight to change: none of MatMul, Gemm or Conv that is not in ignoredLayers")
    return left


def _covers(layer: str, name: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")


def _graph_weights(graph: GraphProto, folder: Path) -> list[Weight]:
    """Return the constant float32 operands of products and convolutions."""
    readers = {node.input[1] for node in all_nodes(graph) if node.op_type in _READERS and len(node.input) > 1}
    floats = (tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT)
    found = (weight_of(item, folder) for item in floats if item.name in readers and len(item.dims) > 1)
    return [weight for weight in found if weight.count]


def _kept(weights: Sequence[Weight], edit: Edit) -> dict[str, int]:
    """Return how many values of each weight are not zero after an edit."""
    return {weight.name: count_kept(weight, edit) for weight in weights}


def _write_onnx(
    model: ModelProto, folder: Path, target: Path, weights: Sequence[Weight], edit: Edit, kept: Mapping[str, int]
) -> Reweighed:
    graph, prefix, names = model.graph, free_prefix(model.graph), {weight.name for weight in weights}
    packed: dict[str, Packed] = {}
    nodes: list[NodeProto] = []
    work: list[Work] = []
    with Output(target.with_name(f"{target.name}.data")) as output:
        for weight in weights:
            if opset_of(model) >= OPSET and is_worth_it(weight, kept[weight.name]):
                packed[weight.name], made, piece = pack(weight, kept[weight.name], edit, prefix, output)
                nodes += made
                work.append(piece)
            else:
                place = output.reserve(weight.name, TensorProto.FLOAT, weight.dims, weight.count * 4)
                work.append(partial(_fill, weight, edit, output, place))
        carry_out([*work, *copies(graph, folder, output, names)])
        first_nodes(graph, nodes)
        replace_tensors(graph, output, names)
    if packed:
        remember(model, packed)
    onnx.save(model, target)
    return _reweighed(weights, kept, tuple(sorted(packed)))


def _reweighed(weights: Sequence[Weight], kept: Mapping[str, int], sparse: tuple[str, ...] = ()) -> Reweighed:
    total = sum(weight.count for weight in weights)
    return Reweighed(tuple(weight.name for weight in weights), total, total - sum(kept.values()), sparse)


def _fill(weight: Weight, edit: Edit, output: Output, place: Place) -> None:
    for start, values in strips(weight):
        output.write(place, start * 4, edit.apply(weight, start, values))


def _overwrite(weight: Weight, edit: Edit, target: Path) -> None:
    with target.open("r+b") as file:
        for start, values in strips(weight):
            file.seek(weight.offset + start * weight.dtype.itemsize)
            file.write(edit.apply(weight, start, values).astype(weight.dtype).tobytes())
