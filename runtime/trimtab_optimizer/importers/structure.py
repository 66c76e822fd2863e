"""What pruning changed of a module, beside the code that builds it.

A pruned module cannot be filled by its own code: `build()` makes it as large as it was. So the sizes that are now other
ones (`in_features`, `num_heads`, ...) stand in `structure.json`, module by module, and are put in before the weights.
The shapes of the tensors themselves are told by the weights. No code is stored, unlike in a pickled module.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import Field, ValidationError
from safetensors import safe_open
from torch import nn

from trimtab_api.contract import Contract, explain
from trimtab_api.errors import InvalidPackage

Size = int | tuple[int, ...]

_KINDS: Final = (int, tuple, torch.Size)


class Structure(Contract):
    """`sizes`: attributes of modules, by the module's name. `sparse`: weights whose zeros are to stay zero."""

    sizes: dict[str, dict[str, Size]] = Field(default_factory=dict)
    sparse: tuple[str, ...] = ()


def read_structure(file: Path) -> Structure:
    """Read `structure.json`. Raises InvalidPackage."""
    try:
        return Structure.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise InvalidPackage(f"{file.name} is not valid: {explain(error)}") from error


def sizes_changed(fresh: nn.Module, module: nn.Module) -> dict[str, dict[str, Size]]:
    """Return the attributes that hold another size than those of a module as its code builds it."""
    before = dict(fresh.named_modules())
    found = {}
    for name, part in module.named_modules():
        old = dict(_sizes(before[name])) if name in before else {}
        changed = {key: value for key, value in _sizes(part) if old.get(key) != value}
        if changed:
            found[name] = changed
    return found


def shrink(module: nn.Module, structure: Structure, weights: Path) -> None:
    """Give a module the sizes of a structure, and its tensors the shapes they have in a file.

    Raises InvalidPackage for modules that the code does not build.
    """
    parts = dict(module.named_modules())
    for name, sizes in structure.sizes.items():
        if name not in parts:
            raise InvalidPackage(f"structure.json names the module `{name}`, which the entrypoint does not build")
        for key, value in sizes.items():
            setattr(parts[name], key, value)
    _reshape(module, _shapes(weights))


def _sizes(part: nn.Module) -> Iterator[tuple[str, Size]]:
    for key, value in vars(part).items():
        if key.startswith("_") or isinstance(value, bool) or not isinstance(value, _KINDS):
            continue
        if isinstance(value, int):
            yield key, value
        elif all(isinstance(item, int) for item in value):
            yield key, tuple(value)


def _shapes(weights: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(weights, "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)


def _reshape(module: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Replace the tensors whose shape differs; one that has several names stays one."""
    made: dict[int, Any] = {}
    for name, tensor in [*module.named_parameters(remove_duplicate=False), *module.named_buffers()]:
        if name in shapes and tuple(tensor.shape) != shapes[name]:
            empty = torch.empty(shapes[name], dtype=tensor.dtype)
            made[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for key, held in tensors.items():
                if id(held) in made:
                    tensors[key] = made[id(held)]
