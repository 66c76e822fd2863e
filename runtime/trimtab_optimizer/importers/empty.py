"""Modules too large to be held: built with parameters that have a type and a shape, and no values.

Parameters become such as the code of the package registers them, so that none is ever filled. Buffers are computed as
always: they are small, and some are in no file.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils.weak import WeakIdKeyDictionary

from trimtab_api.errors import InvalidPackage
from trimtab_optimizer.importers.pytorch import build_module, check_answers, structure_of
from trimtab_optimizer.importers.structure import shrink
from trimtab_optimizer.package import Model
from trimtab_optimizer.streaming.shards import read_header

LARGEST_HELD: Final = 1 << 30  # bytes of weights. No matter how much memory there is: results must not depend on it

DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_LISTED: Final = 8


def is_large(model: Model) -> bool:
    """Tell whether the weights of a package are safetensors of more bytes than LARGEST_HELD."""
    return model.weights.suffix == ".safetensors" and model.weights.stat().st_size > LARGEST_HELD


def check_empty(model: Model) -> None:
    """Hold a module against its weights and its `model.yaml`, without values. Raises InvalidPackage."""
    module = empty_module(model)
    stored_tensors(module, read_header(model.weights)[1], model.weights.name)
    check_answers(module, model.package)


def empty_module(model: Model) -> nn.Module:
    """Return the module of a package, without values. Raises InvalidPackage."""
    module = bare_module(model)
    if model.package.structure:
        with torch.device("meta"):
            shrink(module, structure_of(model), model.weights)
    _pretend(module)
    return module.eval()


def bare_module(model: Model) -> nn.Module:
    """Return the module as the code of a package builds it, with parameters on the meta device."""
    with _without_values():
        return build_module(model)


def stored_tensors(module: nn.Module, header: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Return what a header says of each tensor of a module; a tied one is stored under one of its names.

    Raises InvalidPackage naming what is missing, too many, or of another shape or type.
    """
    tensors = module.state_dict(keep_vars=True)
    by_tensor = {id(tensors[name]): item for name, item in header.items() if name in tensors}
    found = {name: header.get(name, by_tensor.get(id(tensor))) for name, tensor in tensors.items()}
    wrong = {
        "missing": [name for name, item in found.items() if item is None],
        "unexpected": [name for name in header if name not in tensors],
        "of another shape": [n for n, item in found.items() if item and list(tensors[n].shape) != item["shape"]],
        "of an unknown type": [n for n, item in found.items() if item and item["dtype"] not in DTYPES],
    }
    if any(wrong.values()):
        listed = "; ".join(f"{what}: {', '.join(sorted(names)[:_LISTED])}" for what, names in wrong.items() if names)
        raise InvalidPackage(f"{file} does not fit the module ({listed}); save its own state_dict")
    return found


@contextmanager
def _without_values() -> Iterator[None]:
    made = WeakIdKeyDictionary()  # one parameter with two names stays one

    def replace(module: nn.Module, name: str, tensor: nn.Parameter | None) -> nn.Parameter | None:
        if tensor is None or tensor.is_meta:
            return None
        if tensor not in made:
            made[tensor] = nn.Parameter(tensor.to("meta"), tensor.requires_grad)
        return made[tensor]  # type: ignore[no-any-return]

    hook = register_module_parameter_registration_hook(replace)  # type: ignore[arg-type] # torch takes an answer too
    try:
        yield
    finally:
        hook.remove()


def _pretend(module: nn.Module) -> None:
    """Let meta tensors say that they are of the CPU, as what the module itself makes."""
    made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        for part in module.modules():
            for tensors in (part._parameters, part._buffers):
                for name, held in tensors.items():
                    if held is not None and held.is_meta:
                        # The tensor is held too: an id is only of what is alive.
                        tensors[name] = made.setdefault(id(held), (held, _fake(held)))[1]  # type: ignore[assignment]


def _fake(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype)
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
