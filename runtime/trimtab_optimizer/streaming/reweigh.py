"""Write a model with other values in its weights: ONNX (dense, or sparse where that is smaller) and safetensors."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import ml_dtypes
import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, helper

from trimtab_api.errors import PassFailed
from trimtab_optimizer.streaming.carrying import Work, carry_out, copies, copy_bytes, replace_tensors
from trimtab_optimizer.streaming.edits import Choice, Remember, edited
from trimtab_optimizer.streaming.graphs import all_nodes, free_prefix, opset_of
from trimtab_optimizer.streaming.journal import Journal
from trimtab_optimizer.streaming.links import origins
from trimtab_optimizer.streaming.magnitudes import count_kept, pieces
from trimtab_optimizer.streaming.output import Output, Place, Sink
from trimtab_optimizer.streaming.sparse import (
    OPSET,
    Packed,
    first_nodes,
    is_worth_it,
    pack,
    remember,
    unpack,
)
from trimtab_optimizer.streaming.weights import Edits, Weight, stored_weights, weight_of

_READERS: Final = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})
_FLOATS: Final = frozenset({np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)})


@dataclass(frozen=True, slots=True)
class Reweighed:
    """What was done: how many values the weights have, and how many of them are zero; which are stored sparse."""

    weights: tuple[str, ...]
    values: int
    zeros: int
    sparse: tuple[str, ...] = ()


def reweigh_onnx(
    source: Path, target: Path, scratch: Path, choose: Choice, ignored: tuple[str, ...], key: str | None = None
) -> Reweighed:
    """Write a graph with the edit that `choose` makes of its weights. Weights that are mostly zero become sparse.

    With a `key`, that of the work, a second call goes on where one that was killed was, in the same folder.

    Raises PassFailed where no weight is left, or `ignored` names none of them.
    """
    dense = scratch / "dense.onnx"
    source = dense if unpack(source, dense) else source
    model = onnx.load(source, load_external_data=False)
    found = chosen_weights(graph_weights(model.graph, source.parent), ignored)
    journal = Journal(target, key_of(key, model, {weight.name: 1 for weight in found}))
    weights = edited(found, choose, journal.remember)
    return _write_onnx(model, source.parent, target, weights, journal)


def write_edited(source: Path, target: Path, edits: Edits, key: str | None = None) -> None:
    """Write a graph with edits of its weights that were found before."""
    model = onnx.load(source, load_external_data=False)
    weights = edited_weights(model.graph, source.parent, edits)
    journal = Journal(target, key_of(key, model, {weight.name: len(weight.edits) for weight in weights}))
    _write_onnx(model, source.parent, target, weights, journal)


def store_sparse(file: Path, scratch: Path) -> tuple[str, ...]:
    """Rewrite a graph in place so that weights that are mostly zero become sparse, and return their names."""
    model = onnx.load(file, load_external_data=False)
    weights, journal = graph_weights(model.graph, file.parent), Journal(file, None)
    kept = kept_of(weights, journal.remember)
    if not any(is_worth_it(weight, kept[weight.name]) for weight in weights):
        return ()
    made = scratch / "sparse"
    made.mkdir()
    found = _write_onnx(model, file.parent, made / file.name, weights, journal)
    for path in (file, file.with_name(f"{file.name}.data")):
        path.unlink(missing_ok=True)
    for path in made.iterdir():
        shutil.move(path, file.with_name(path.name))
    return found.sparse


def reweigh_safetensors(
    source: Path, target: Path, choose: Choice, ignored: tuple[str, ...], key: str | None = None
) -> Reweighed:
    """Write a safetensors file with the edit that `choose` makes of its matrices. As reweigh_onnx otherwise."""
    found = chosen_weights(stored_matrices(source), ignored)
    journal = Journal(target, key_of(key, None, {weight.name: 1 for weight in found}))
    weights = edited(found, choose, journal.remember)
    return _write_stored(source, target, weights, journal)


def write_edited_stored(source: Path, target: Path, edits: Edits, key: str | None = None) -> None:
    """Write a safetensors file with edits of its tensors that were found before."""
    stored = stored_weights(source)
    weights = [replace(stored[name], edits=items) for name, items in edits.items()]
    journal = Journal(target, key_of(key, None, {weight.name: len(weight.edits) for weight in weights}))
    _write_stored(source, target, weights, journal)


def _write_stored(source: Path, target: Path, weights: Sequence[Weight], journal: Journal) -> Reweighed:
    with Sink(target, journal.goes_on) as sink:
        sink.expect(source.stat().st_size)
        filling = [partial(_overwrite, weight, rows, sink, journal) for weight in weights for rows in pieces(weight)]
        carry_out(journal.left([*filling, *_copies_between(weights, source, sink)], sink))
    kept = {weight.name: _counted(weight, journal) for weight in weights}
    journal.forget()
    return reweighed(weights, kept)


def chosen_weights(weights: Sequence[Weight], ignored: tuple[str, ...]) -> list[Weight]:
    """Return the weights that no name in `ignored` covers: a layer's name covers all that begins with it.

    Raises PassFailed where none is left, or a name covers none.
    """
    names = {weight.name: weight.name.removeprefix("module.") for weight in weights}
    unknown = [layer for layer in ignored if not any(_covers(layer, name) for name in names.values())]
    if unknown:
        listed = ", ".join(list(names.values())[:20]) or "none"
        raise PassFailed(f"there is no layer `{unknown[0]}` to ignore; weights are: {listed}")
    left = [weight for weight in weights if not any(_covers(layer, names[weight.name]) for layer in ignored)]
    if not left:
        raise PassFailed("the model has no weight to change: none of MatMul, Gemm or Conv that is not in ignoredLayers")
    return left


def graph_weights(graph: GraphProto, folder: Path) -> list[Weight]:
    """Return the constant float operands of products and convolutions, also where a Cast or Transpose is in between."""
    values = origins(graph)
    operands = {node.input[1] for node in all_nodes(graph) if node.op_type in _READERS and len(node.input) > 1}
    readers = {values[name].tensor.name if name in values else name for name in operands}
    floats = (tensor for tensor in graph.initializer if helper.tensor_dtype_to_np_dtype(tensor.data_type) in _FLOATS)
    found = (weight_of(item, folder) for item in floats if item.name in readers and len(item.dims) > 1)
    return [weight for weight in found if weight.count]


def edited_weights(graph: GraphProto, folder: Path, edits: Edits) -> list[Weight]:
    """Return the weights of a graph that have edits, with them."""
    changed = (tensor for tensor in graph.initializer if tensor.name in edits)
    return [replace(weight_of(tensor, folder), edits=edits[tensor.name]) for tensor in changed]


def stored_matrices(file: Path) -> list[Weight]:
    """Return the tensors of a safetensors file that may be weights of products and convolutions."""
    stored = stored_weights(file).values()
    return [item for item in stored if len(item.dims) > 1 and item.count and item.dtype in _FLOATS]


def dense_work(weight: Weight, output: Output) -> Iterator[Work]:
    """Reserve the place of a weight as it is edited, and yield the pieces of work that fill it."""
    place = output.reserve(weight.name, helper.np_dtype_to_tensor_dtype(weight.dtype), weight.dims, weight.size_bytes)
    for rows in pieces(weight):
        yield partial(_fill, weight, rows, output, place)


def _covers(layer: str, name: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")


def key_of(key: str | None, model: ModelProto | None, edits: Mapping[str, int]) -> str | None:
    """Return the key of work on a graph: its pieces follow from that, and from how many edits weights have."""
    if key is None:
        return None
    found = hashlib.sha256(model.SerializeToString(deterministic=True) if model else b"")
    found.update(json.dumps(edits).encode())
    return f"{key} {found.hexdigest()}"


def kept_of(weights: Iterable[Weight], remember: Remember) -> dict[str, int]:
    """Return how many values of each weight are not zero after its edits."""
    return {item.name: remember(f"kept of {item.name}", partial(count_kept, item)) for item in weights}


def _write_onnx(
    model: ModelProto, folder: Path, target: Path, weights: Sequence[Weight], journal: Journal
) -> Reweighed:
    graph, prefix, names = model.graph, free_prefix(model.graph), {weight.name for weight in weights}
    kept = kept_of(weights, journal.remember)
    packed: dict[str, Packed] = {}
    nodes: list[NodeProto] = []
    work: list[Work] = []
    with Output(target.with_name(f"{target.name}.data"), journal.goes_on) as output:
        for weight in weights:
            if opset_of(model) >= OPSET and is_worth_it(weight, kept[weight.name]):
                packed[weight.name], made, piece = pack(weight, kept[weight.name], prefix, output)
                nodes += made
                work.append(piece)
            else:
                work += dense_work(weight, output)
        work += copies(graph, folder, output, names)
        carry_out(journal.left(work, output))
        first_nodes(graph, nodes)
        replace_tensors(graph, output, names)
    if packed:
        remember(model, packed)
    onnx.save(model, target)
    journal.forget()
    return reweighed(weights, kept, tuple(sorted(packed)))


def reweighed(weights: Sequence[Weight], kept: Mapping[str, int], sparse: tuple[str, ...] = ()) -> Reweighed:
    """Return what was done, from how many values of each weight are not zero."""
    total = sum(weight.count for weight in weights)
    return Reweighed(tuple(weight.name for weight in weights), total, total - sum(kept.values()), sparse)


def _fill(weight: Weight, rows: range, output: Output, place: Place) -> None:
    values = weight.read(rows).astype(weight.dtype, copy=False)
    output.write(place, rows.start * weight.columns * weight.dtype.itemsize, values)


def _overwrite(weight: Weight, rows: range, sink: Sink, journal: Journal) -> None:
    values = weight.read(rows)
    sink.put(weight.offset + rows.start * weight.columns * weight.dtype.itemsize, values.astype(weight.dtype))
    journal.remember(_count_name(weight, rows), lambda: int(np.count_nonzero(values)))


def _counted(weight: Weight, journal: Journal) -> int:
    """Return how many values of a weight are not zero, as was counted when they were written."""
    return sum(journal.remember(_count_name(weight, rows), lambda: 0) for rows in pieces(weight))


def _count_name(weight: Weight, rows: range) -> str:
    return f"kept of {weight.name} from {rows.start}"


def _copies_between(weights: Sequence[Weight], source: Path, sink: Sink) -> Iterator[Work]:
    """Yield the work that copies everything in a file but the weights, its header too."""
    spans = sorted((weight.offset, weight.offset + weight.size_bytes) for weight in weights)
    starts, ends = [0, *(end for _, end in spans)], [*(start for start, _ in spans), source.stat().st_size]
    for start, end in zip(starts, ends, strict=True):
        yield from copy_bytes(
            Weight(source.name, (1, end - start), np.dtype(np.uint8), source, start, None), sink, start
        )
