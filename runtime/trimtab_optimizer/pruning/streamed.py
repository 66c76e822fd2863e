"""Take channels out of a module that is too large to be held: its weights stay in their file.

The module has shapes and no values, so that it is traced, tried and cut as any other. What decides which channels go
are norms, which are read from the file each time they are asked for, of what is left of a tensor by then. Which indices
are left is seen from the selections that cutting makes; what they leave is then written in one reading of the file.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import torch
import torch_pruning as tp
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from trimtab_api.errors import InvalidPackage, PassFailed
from trimtab_api.package import WEIGHTS_FILE
from trimtab_api.spec import Prune
from trimtab_optimizer.importers.empty import bare_module, check_empty, empty_module, stored_tensors
from trimtab_optimizer.importers.pytorch import save_structure, structure_of
from trimtab_optimizer.importers.structure import Structure, sizes_changed
from trimtab_optimizer.package import Model
from trimtab_optimizer.passes.contract import Workplace
from trimtab_optimizer.passes.resuming import place_to_write
from trimtab_optimizer.pruning.structured import POWERS, Cut, cut_channels, importance_of, rows_to_trace
from trimtab_optimizer.streaming.shards import read_header
from trimtab_optimizer.streaming.slices import Slice, write_slices
from trimtab_optimizer.streaming.weights import Weight, stored_weights

_AXES: Final[Mapping[Any, int]] = MappingProxyType(
    {
        tp.prune_conv_out_channels: 0,
        tp.prune_linear_out_channels: 0,
        tp.prune_batchnorm_out_channels: 0,
        tp.prune_layernorm_out_channels: 0,
        tp.prune_conv_in_channels: 1,
        tp.prune_linear_in_channels: 1,
    }
)


def cut_stored_channels(options: Prune, model: Model, work: Workplace) -> tuple[Model, Cut]:
    """Write a package without the channels that count least. Raises as cut_channels, and InvalidPackage."""
    header = read_header(model.weights)[1]
    module = empty_module(model)
    stored_tensors(module, header, model.weights.name)
    selections = Selections(module, stored_weights(model.weights))
    inputs = rows_to_trace(model.package, work.seed)
    power = POWERS.get(options.method)
    importance = _StreamedMagnitude(power, selections) if power else importance_of(options.method, work.seed)
    with selections:
        cut = cut_channels(module, inputs, model.package, options, importance)
    structure = Structure(sizes=sizes_changed(bare_module(model), module), sparse=structure_of(model).sparse)
    made = save_structure(model, structure, work.target)
    with place_to_write(work) as (folder, key):
        write_slices(selections.left_of(module), folder / WEIGHTS_FILE, key)
    _check(made)
    return made, cut


class Selections(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What is left of stored tensors, seen from the selections that are made of a module's while this is entered."""

    def __init__(self, module: nn.Module, weights: Mapping[str, Weight]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen: dict[int, tuple[torch.Tensor, Slice]] = {}  # the tensor too: an id is only of what is alive
        tensors = module.state_dict(keep_vars=True)
        for name, weight in weights.items():
            self._note(tensors[name], Slice(weight))

    def of(self, tensor: torch.Tensor) -> Slice:
        """Return what is left in a tensor."""
        return self._seen[_identity(tensor)][1]

    def left_of(self, module: nn.Module) -> dict[str, Slice]:
        """Return what is left of each tensor of a module; of one with several names, under one of them.

        Raises PassFailed where one that had several names is no longer one.
        """
        found: dict[str, Slice] = {}
        names: dict[str, str] = {}  # by that in the file
        for name, tensor in module.state_dict(keep_vars=True).items():
            part = self.of(tensor)
            first = names.setdefault(part.weight.name, name)
            if first == name:
                found[name] = part
            elif not part.is_same_as(found[first]):
                raise PassFailed(f"prune cuts {first} and {name} apart, which are one tensor; ignore one of the layers")
        return found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute what was asked for, and note it where it selects of a known tensor."""
        found = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.index_select.default:
            self._select(found, args[0], args[1] % args[0].dim(), args[2])
        elif func is torch.ops.aten.index.Tensor and len(args[1]) == 1:
            self._select(found, args[0], 0, args[1][0])
        return found

    def _select(self, found: torch.Tensor, source: torch.Tensor, axis: int, places: torch.Tensor) -> None:
        if _identity(source) in self._seen:
            self._note(found, self.of(source).without(axis, places.numpy()))

    def _note(self, tensor: torch.Tensor, part: Slice) -> None:
        self._seen[_identity(tensor)] = (tensor, part)


class _StreamedMagnitude(tp.importance.MagnitudeImportance):  # type: ignore[misc]
    """The importance of torch-pruning (GroupMagnitudeImportance in its pruner/importance.py), of norms from a file."""

    def __init__(self, power: int, selections: Selections) -> None:
        super().__init__(p=power)
        self._selections = selections

    def __call__(self, group: Any) -> torch.Tensor | None:
        """Return a score for each channel of a group; None where no layer of it has weights."""
        scores, places = [], []
        for item in group:
            layer, handler = item.dep.target.module, item.dep.handler
            if handler in _AXES and getattr(layer, "weight", None) is not None:
                scores.append(self._scores(layer, handler)[item.idxs])
                places.append(item.root_idxs)
        return self._normalize(self._reduce(scores, places), self.normalizer) if scores else None

    def _scores(self, layer: Any, handler: Any) -> torch.Tensor:
        axis = _AXES[handler]
        if getattr(layer, "transposed", False):
            axis = 1 - axis
        found = torch.from_numpy(self._selections.of(layer.weight).norms(axis, self.p))
        # Convolutions in groups read the same channels of their weight once for each group.
        grouped = handler is tp.prune_conv_in_channels and layer.groups not in (1, layer.in_channels)
        return found.repeat(layer.groups) if grouped else found


def _identity(tensor: torch.Tensor) -> int:
    """Return what a tensor shares with the parameter that is made of it."""
    return int(tensor.untyped_storage()._cdata)


def _check(made: Model) -> None:
    try:
        check_empty(made)
    except InvalidPackage as error:
        raise PassFailed(f"prune made a module that no longer runs ({error}); name layers in ignoredLayers") from error
