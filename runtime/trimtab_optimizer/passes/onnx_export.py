"""A PyTorch module becomes ONNX with a dynamic batch axis, and has to predict the same.

The exported file must not depend on where or when it was made, so traces of the exporting process (stack traces with
paths, in node metadata) are taken out.
"""

import shutil
from dataclasses import replace

import onnx_ir

from trimtab_api.package import ONNX_FILE, WEIGHTS_FILE
from trimtab_api.spec import ModelFormat
from trimtab_optimizer.capturing.exporter import capture
from trimtab_optimizer.capturing.referring import export_referring
from trimtab_optimizer.importers.empty import is_large
from trimtab_optimizer.importers.pytorch import load_module, structure_of
from trimtab_optimizer.package import Model, Waiting, write_package
from trimtab_optimizer.passes.contract import Outcome, Workplace
from trimtab_optimizer.passes.verification import compared
from trimtab_optimizer.streaming.reweigh import store_sparse
from trimtab_optimizer.streaming.shards import read_header
from trimtab_optimizer.streaming.weights import places_in

_LARGEST_INLINE = 1 << 30  # protobuf ends at 2 GiB; weights beyond this go beside the graph


def to_onnx(model: Model, work: Workplace) -> Outcome:
    """Return the model as ONNX. Raises PassFailed where it cannot be exported or predicts something else."""
    if model.package.format is ModelFormat.ONNX:
        shutil.copytree(model.folder, work.target)
        return Outcome(Model(work.target, model.package), {"note": "the model was ONNX already: nothing was done"})
    work.target.mkdir(parents=True)
    sparse: tuple[str, ...] = ()
    if is_large(model):
        export_referring(model, work.target, work.seed)
    else:
        _export(model, work)
        sparse = store_sparse(work.target / ONNX_FILE, work.scratch) if structure_of(model).sparse else ()
    absent = dict.fromkeys(("entrypoint", "structure", "metrics", "edits"))
    changes = {"format": ModelFormat.ONNX, "weights": ONNX_FILE, **absent}
    made = write_package(work.target, model.package.model_copy(update=changes))
    notes = {**compared(model, made, work), "sparse": list(sparse)}
    return Outcome(replace(made, waiting=_waiting(model, made)), notes)


def _waiting(model: Model, made: Model) -> Waiting | None:
    """Return what the weights of a graph wait for, which are those of its module: by place, as names are others."""
    if model.waiting is None:
        return None
    begin, header = read_header(model.weights)
    changed = {name: header[name]["data_offsets"] for name in model.waiting.edits}
    names = {(begin + start, end - start): name for name, (start, end) in changed.items()}
    places = places_in(made.weights, WEIGHTS_FILE)
    edits = {name: model.waiting.edits[names[place]] for name, place in places.items() if place in names}
    return Waiting(edits, model.waiting.size_bytes)


def _export(model: Model, work: Workplace) -> None:
    module = load_module(model, work.allow_pickle)
    graph = capture(module, model.package, work.seed, optimize=True)
    size = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    beside = f"{ONNX_FILE}.data" if size > _LARGEST_INLINE else None
    onnx_ir.save(graph, work.target / ONNX_FILE, external_data=beside)
