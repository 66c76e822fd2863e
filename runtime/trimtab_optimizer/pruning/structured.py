"""Take channels, and heads of attention, out of a module: its tensors get smaller, and every runtime gains."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch_pruning as tp
from torch import nn

from trimtab_api.errors import PassFailed, TrimtabError
from trimtab_api.package import ModelPackage
from trimtab_api.spec import Prune
from trimtab_optimizer.pruning.dependencies import ROOTS, Attention, attentions_of, fixed_layers, quietly
from trimtab_optimizer.tensors import example_inputs

_ROWS: Final = 2
_ROUND_TO: Final = 8  # kernels work on so many channels at once
POWERS: Final = {"l1": 1, "l2": 2}  # of magnitudes; what is not named here goes by chance


@dataclass(frozen=True, slots=True)
class Cut:
    """What was done. `left` names layers that keep their channels, with the reason."""

    parameters_before: int
    parameters: int
    left: dict[str, str]
    heads: dict[str, int]


def cut_channels(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    package: ModelPackage,
    options: Prune,
    importance: Any,
    between: Callable[[nn.Module], None] = lambda module: None,
) -> Cut:
    """Prune a module in place, `iterations` times a part of `amount`, each followed by `between`.

    `importance` gives scores to the channels of a group, as torch-pruning has it.

    Raises PassFailed for layers that do not exist, for a module that cannot be traced, and where nothing could be cut.
    """
    before = _parameters(module)
    attentions = attentions_of(module) if options.attention_heads else []
    left = _left_alone(module, inputs, package, options, attentions)
    pruner = _pruner(module, inputs, options, importance, attentions, [module.get_submodule(name) for name in left])
    for _ in range(options.iterations or 1):
        _step(pruner, attentions)
        between(module)
    if _parameters(module) == before:
        raise _nothing_cut(options, left)
    names = {part: name for name, part in module.named_modules()}
    heads = {names[item.module]: item.heads for item in attentions}
    return Cut(before, _parameters(module), left, heads)


def rows_to_trace(package: ModelPackage, seed: int) -> tuple[torch.Tensor, ...]:
    """Return made-up rows, by which the tracer sees how layers hang together."""
    return tuple(torch.from_numpy(values) for values in example_inputs(package.inputs, _ROWS, seed).values())


def importance_of(method: str, seed: int) -> Any:
    """Return what gives scores to channels, by the values of a module or by chance."""
    power = POWERS.get(method)
    return tp.importance.MagnitudeImportance(p=power) if power else _Chance(seed)


class _Chance(tp.importance.Importance):  # type: ignore[misc]
    """Scores by chance, which follow from the seed alone: not from what the module's code drew before."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, group: Any) -> torch.Tensor:
        """Return a score for each channel of a group."""
        return torch.rand(len(group[0].idxs), generator=self._generator)


def _check_names(module: nn.Module, ignored: tuple[str, ...]) -> None:
    """Raise PassFailed where a name is none of a module's layers."""
    known = [name for name, _ in module.named_modules() if name]
    unknown = [name for name in ignored if name not in known]
    if unknown:
        raise PassFailed(f"prune: there is no layer `{unknown[0]}` to ignore; there are: {', '.join(known[:20])}")


def _left_alone(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    package: ModelPackage,
    options: Prune,
    attentions: list[Attention],
) -> dict[str, str]:
    _check_names(module, options.ignored_layers)
    ignored = {
        f"{name}.{inner}".strip("."): "named in ignoredLayers"
        for name in options.ignored_layers
        for inner, part in module.get_submodule(name).named_modules()
        if isinstance(part, ROOTS)
    }
    apart = {module.get_submodule(name) for name in ignored}
    apart.update(layer for item in attentions for layer in item.projections)
    try:
        return ignored | fixed_layers(module, inputs, package, apart)
    except Exception as error:
        raise _untraceable(error) from error


def _pruner(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    options: Prune,
    importance: Any,
    attentions: list[Attention],
    ignored: list[nn.Module],
) -> Any:
    with quietly():
        return tp.pruner.BasePruner(
            module,
            inputs,
            importance=importance,
            global_pruning=options.scope == "global",
            pruning_ratio=options.amount,
            # In the global order a layer may lose nearly all it has, and the module with it.
            max_pruning_ratio=max(options.amount, 0.9) if options.scope == "global" else options.amount,
            iterative_steps=options.iterations or 1,
            ignored_layers=ignored,
            round_to=options.round_to or _ROUND_TO,
            num_heads={layer: item.heads for item in attentions for layer in item.projections},
            prune_num_heads=bool(attentions),
            prune_head_dims=False,
            head_pruning_ratio=options.amount if attentions else 0.0,
            root_module_types=list(ROOTS),
        )


def _step(pruner: Any, attentions: list[Attention]) -> None:
    try:
        with quietly():
            for group in pruner.step(interactive=True):
                _prune(group)
    except TrimtabError:  # of what reads the weights
        raise
    except Exception as error:
        raise _untraceable(error) from error
    for item in attentions:
        setattr(item.module, item.count, int(pruner.num_heads[item.projections[0]]))


def _prune(group: Any) -> None:
    """Take out a group of channels, with the gains of a LayerNorm in their own order.

    torch-pruning 1.6.1 takes what is left of them in that of a set (LayernormPruner in its pruner/function.py), which
    is another one where much goes.
    """
    before = [(item, item.dep.layer.weight, item.dep.layer.bias) for item in group if _is_norm(item)]
    group.prune()
    for item, weight, bias in before:
        layer, gone = item.dep.layer, set(item.idxs)
        kept = torch.tensor([place for place in range(len(weight)) if place not in gone])
        layer.weight = nn.Parameter(weight.index_select(0, kept), weight.requires_grad)
        if bias is not None:
            layer.bias = nn.Parameter(bias.index_select(0, kept), bias.requires_grad)


def _is_norm(item: Any) -> bool:
    layer = item.dep.layer
    return item.dep.handler == tp.prune_layernorm_out_channels and layer.weight is not None and layer.weight.dim() == 1


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _untraceable(error: BaseException) -> PassFailed:
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return PassFailed(
        f"prune cannot follow how the module's layers hang together ({said}); "
        "name the layers concerned in ignoredLayers, or use structure: unstructured"
    )


def _nothing_cut(options: Prune, left: dict[str, str]) -> PassFailed:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left.items())[:5]) or "none was found"
    return PassFailed(
        f"prune took nothing out: layers are cut in steps of {options.round_to or _ROUND_TO} channels, "
        f"and some cannot be cut ({reasons}); raise amount, or lower roundTo"
    )
