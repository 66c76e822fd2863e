"""Which layers can lose channels: tried out, one group of coupled layers at a time, on tensors without memory.

Channels hang together: what a layer loses, its readers lose, and its partners in a sum (DepGraph, Fang et al. 2023,
arXiv:2301.12900). The tracer follows that, but not what code does with a number it was written with, such as a reshape
to four heads. So each group is pruned on a copy, on torch's meta device where the module allows it, which has shapes
and no values, and the copy is run: a group whose loss breaks the module, or changes its outputs, is left alone.
"""

import copy
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch_pruning as tp
from torch import nn

from trimtab_api.package import ModelPackage
from trimtab_optimizer.importers.pytorch import ordered_outputs

ROOTS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)

_CONTAINERS: Final = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_HEAD_COUNTS: Final = ("num_heads", "n_heads", "n_head", "num_attention_heads", "heads")
_PROJECTION: Final = re.compile(r"(to_)?(q|k|v|qkv|query|key|value|query_key_value)(_proj|_lin)?")


@dataclass(frozen=True, slots=True)
class Attention:
    """A module that splits what its projections give into heads, by a number that it keeps in an attribute."""

    module: nn.Module
    count: str  # the attribute
    projections: tuple[nn.Module, ...]

    @property
    def heads(self) -> int:
        return int(getattr(self.module, self.count))


def attentions_of(module: nn.Module) -> list[Attention]:
    """Return the attention modules that say how many heads they have, as most implementations do."""
    found = []
    for part in module.modules():
        count = next((name for name in _HEAD_COUNTS if isinstance(getattr(part, name, None), int)), None)
        projections = tuple(
            layer
            for name, layer in part.named_children()
            if _PROJECTION.fullmatch(name) and isinstance(layer, nn.Linear)
        )
        if count and projections:
            found.append(Attention(part, count, projections))
    return found


def fixed_layers(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], package: ModelPackage, apart: set[nn.Module]
) -> dict[str, str]:
    """Return the layers that cannot lose channels, by name, with the reason. Those in `apart` are not tried."""
    names = {part: name for name, part in module.named_modules()}
    owners = dict(_owners(module))
    found: dict[str, str] = {}
    tried_before: dict[object, str | None] = {}
    with quietly():
        device = _device_of_trials(module, inputs)
        tried = tuple(value.to(device) for value in inputs)
        graph = tp.DependencyGraph().build_dependency(module, inputs)
        for group in graph.get_all_groups(root_module_types=list(ROOTS)):
            root, handler = group[0].dep.target.module, group[0].dep.handler
            if root in apart or root not in names:
                continue
            kind = tuple(_kind(item, owners) for item in group)
            if kind not in tried_before:
                tried_before[kind] = _reason(module, names[root], handler, len(group[0].idxs), tried, package)
            if reason := tried_before[kind]:
                found[names[root]] = reason
    return found


@contextmanager
def quietly() -> Iterator[None]:
    """Keep out of the log what the tracer says of parameters of their own, and torch of trials that fail."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def _owners(module: nn.Module) -> Iterator[tuple[nn.Module, tuple[object, str]]]:
    """Yield each layer with whose code calls it, and its name there: the class of the nearest module that has code.

    Blocks of a class run the same code. So one trial tells of all groups that have the same layers of such blocks, and
    deep networks are tried as fast as flat ones. Layers of the outermost module are its own.
    """
    parts = dict(module.named_modules())
    for name, part in parts.items():
        above = name.rpartition(".")[0]
        while above and isinstance(parts[above], _CONTAINERS):
            above = above.rpartition(".")[0]
        code = (type(parts[above]), _numbers(parts[above], above)) if above else None
        yield part, (code, name[len(above) :])


def _numbers(part: nn.Module, name: str) -> tuple[tuple[str, object], ...]:
    """Return the numbers that a module was made with, but that of its block."""
    places = {int(piece) for piece in name.split(".") if piece.isdigit()}
    plain = ((key, value) for key, value in vars(part).items() if isinstance(value, int | float | str))
    return tuple(sorted((key, value) for key, value in plain if type(value) is bool or value not in places))


def _kind(item: Any, owners: Mapping[nn.Module, tuple[object, str]]) -> object:
    """Return what is alike of a layer and of one of another block: its place, what it loses, and its size."""
    part, handler = item.dep.target.module, item.dep.handler.__name__
    place = owners.get(part) if isinstance(part, nn.Module) else None
    weight = getattr(part, "weight", None)
    return place or type(part), handler, len(item.idxs), None if weight is None else tuple(weight.shape)


def _device_of_trials(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> str:
    """Return `meta`, or `cpu` for a module that looks at values on its way, such as whether a mask is all ones."""
    try:
        copy.deepcopy(module).to("meta")(*(value.to("meta") for value in inputs))
    except Exception:
        return "cpu"
    return "meta"


def _reason(
    module: nn.Module,
    name: str,
    handler: Any,
    channels: int,
    inputs: tuple[torch.Tensor, ...],
    package: ModelPackage,
) -> str | None:
    """Say why a layer cannot lose half its channels, or None where it can."""
    if channels < 2:
        return "it has one channel"
    trial = copy.deepcopy(module)
    if inputs[0].is_meta:  # else the module is where the inputs are
        trial = trial.to("meta")
    root = trial.get_submodule(name)
    try:
        expected = [value.shape for value in ordered_outputs(trial(*inputs), package)]
        graph = tp.DependencyGraph().build_dependency(trial, inputs)
        graph.get_pruning_group(root, _handler_of(graph, root, handler), list(range(channels // 2))).prune()
        found = [value.shape for value in ordered_outputs(trial(*inputs), package)]
    except Exception as error:  # whatever the module's code raises on sizes that it was not written for
        return f"the module is written for its size ({type(error).__name__})"
    return None if found == expected else "it gives an output of the model"


def _handler_of(graph: Any, root: nn.Module, handler: Any) -> Any:
    """Return the function of another graph that takes the same kind of channels out of a layer."""
    pruner = graph.get_pruner_of_module(root)
    return pruner.prune_out_channels if handler.__name__ == "prune_out_channels" else pruner.prune_in_channels
