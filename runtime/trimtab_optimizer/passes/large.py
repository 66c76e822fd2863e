"""convert of modules too large to be held: the graph is captured without values and refers to the safetensors file.

Parameters become meta tensors as the code of the package registers them, so that none is ever filled. Buffers are
computed as always: they are small, and some are in no file. One that is computed from parameters has no value then.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.modules.module import register_module_parameter_registration_hook

from trimtab_api.errors import InvalidPackage, PassFailed
from trimtab_api.package import ONNX_FILE, WEIGHTS_FILE
from trimtab_optimizer.importers.pytorch import build_module, structure_of
from trimtab_optimizer.importers.structure import shrink
from trimtab_optimizer.package import Model
from trimtab_optimizer.passes.capture import capture
from trimtab_optimizer.streaming.shards import read_header

_WRAPPED: Final = "module."
_TYPES: Final = {
    "F64": ir.DataType.DOUBLE,
    "F32": ir.DataType.FLOAT,
    "F16": ir.DataType.FLOAT16,
    "BF16": ir.DataType.BFLOAT16,
    "I64": ir.DataType.INT64,
    "I32": ir.DataType.INT32,
    "I16": ir.DataType.INT16,
    "I8": ir.DataType.INT8,
    "U8": ir.DataType.UINT8,
    "BOOL": ir.DataType.BOOL,
}


def is_large(model: Model, limit: int) -> bool:
    """Tell whether the weights of a package are safetensors of more bytes than a limit."""
    return model.weights.suffix == ".safetensors" and model.weights.stat().st_size > limit


def export_large(model: Model, target: Path, seed: int) -> None:
    """Write the graph of a package beside its own weights. Raises InvalidPackage and PassFailed."""
    begin, header = read_header(model.weights)
    module = _without_values(model)
    stored = _stored(module, header, model.weights.name)
    graph = capture(module, model.package, seed, optimize=False)
    for name in list(graph.graph.initializers):
        _refer(graph.graph, name, stored, begin)
    _link(model.weights, target / WEIGHTS_FILE)
    ir.save(graph, target / ONNX_FILE)


def _without_values(model: Model) -> nn.Module:
    hook = register_module_parameter_registration_hook(_to_meta)
    try:
        module = build_module(model)
    finally:
        hook.remove()
    if model.package.structure:
        with torch.device("meta"):
            shrink(module, structure_of(model), model.weights)
    _pretend(module)
    return module.eval()


def _to_meta(module: nn.Module, name: str, tensor: nn.Parameter | None) -> nn.Parameter | None:
    if tensor is None or tensor.is_meta:
        return None
    return nn.Parameter(tensor.to("meta"), tensor.requires_grad)


def _pretend(module: nn.Module) -> None:
    """Let meta tensors say that they are of the CPU, as what the module itself makes; one with two names stays one."""
    made: dict[int, Any] = {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        for part in module.modules():
            for tensors in (part._parameters, part._buffers):
                for key, held in tensors.items():
                    if held is not None and held.is_meta:
                        made.setdefault(id(held), (held, _fake(held)))  # held too: an id is of what is alive
                        tensors[key] = made[id(held)][1]


def _fake(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype)
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _stored(module: nn.Module, header: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Return what the header says of each tensor of a module; a tied one is stored under one of its names."""
    tensors = module.state_dict(keep_vars=True)
    by_tensor = {id(tensors[name]): item for name, item in header.items() if name in tensors}
    found = {name: header.get(name, by_tensor.get(id(tensor))) for name, tensor in tensors.items()}
    wrong = [name for name, item in found.items() if not item or list(tensors[name].shape) != item["shape"]]
    wrong += [name for name in header if name not in tensors]
    wrong += [name for name, item in found.items() if item and item["dtype"] not in _TYPES]
    if wrong:
        listed = ", ".join(sorted(wrong)[:8])
        raise InvalidPackage(f"{file} does not fit the module (missing, too many or other ones: {listed})")
    return found


def _refer(graph: ir.Graph, name: str, stored: Mapping[str, Any], begin: int) -> None:
    """Make an initializer one that lies in the safetensors file, with a Cast where the module has another type."""
    value, item = graph.initializers[name], stored.get(name.removeprefix(_WRAPPED))
    assert value.const_value is not None
    if item is None:
        if isinstance(getattr(value.const_value, "raw", None), FakeTensor):
            raise _no_value(name.removeprefix(_WRAPPED))
        return
    wanted, kind = value.const_value.dtype, _TYPES[item["dtype"]]
    if wanted == kind:
        value.const_value = _external(name, item, begin)
        return
    held = ir.Value(name=f"{name}.stored", type=ir.TensorType(kind), shape=ir.Shape(item["shape"]))
    held.const_value = _external(f"{name}.stored", item, begin)
    del graph.initializers[name]
    cast = ir.node("Cast", [held], {"to": wanted}, outputs=[value], name=f"{name}.cast")
    value.const_value = None
    graph.insert_before(graph[0], cast)
    graph.register_initializer(held)


def _external(name: str, item: Mapping[str, Any], begin: int) -> ir.ExternalTensor:
    start, end = item["data_offsets"]
    kind, shape = _TYPES[item["dtype"]], ir.Shape(item["shape"])
    return ir.ExternalTensor(WEIGHTS_FILE, begin + start, end - start, kind, shape=shape, name=name)


def _no_value(name: str) -> PassFailed:
    mend = "register it persistent and save the weights again, or compute it in forward"
    return PassFailed(f"convert: the buffer {name} is computed from weights, which are too large to be built; {mend}")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
