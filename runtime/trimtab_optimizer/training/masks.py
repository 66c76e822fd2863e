"""Weights that were pruned to zero stay zero while the others learn."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize


@dataclass(frozen=True, slots=True)
class Masks:
    """Parameters, each with what it is multiplied by after every step."""

    pairs: tuple[tuple[nn.Parameter, torch.Tensor], ...] = ()

    def apply(self) -> None:
        """Set to zero what is to be zero."""
        with torch.no_grad():
            for parameter, mask in self.pairs:
                parameter.mul_(mask)


def masks_of(module: nn.Module, sparse: tuple[str, ...]) -> Masks:
    """Return the masks of the weights named, as their zeros stand now."""
    parameters = [_trained(module, name) for name in sparse]
    return Masks(tuple((parameter, (parameter != 0).to(parameter.dtype)) for parameter in parameters))


def _trained(module: nn.Module, name: str) -> nn.Parameter:
    """Return the parameter that is trained; where a weight is rounded on its way, that is what it is rounded from."""
    path, _, key = name.rpartition(".")
    part = module.get_submodule(path)
    if parametrize.is_parametrized(part, key):
        return part.get_parameter(f"parametrizations.{key}.original")
    return part.get_parameter(key)
