"""Training that knows of quantization: weights are rounded on the way forward, as the `quantize` pass will store them.

Rounding has no slope, so on the way back the gradient goes straight through it (straight-through estimator, Bengio et
al. 2013, arXiv:1308.3432). In the end the rounded weights are the weights: what is measured is what will be stored.
"""

from typing import Final

import torch
from torch import nn
from torch.nn.utils import parametrize

from trimtab_api.errors import PassFailed
from trimtab_api.spec import QuantizationAware
from trimtab_optimizer.streaming.kernels import BITS, BLOCK_SIZE, COLUMN_CODES

_BY_CHANNEL: Final = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class RoundedChannels(nn.Module):
    """One scale for each output, codes up to 64 with a sign: what int8 stores."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return [outputs, ...], rounded."""
        scales = weight.detach().flatten(1).abs().amax(1) / COLUMN_CODES
        scales = torch.where(scales == 0, torch.ones_like(scales), scales).view(-1, *[1] * (weight.ndim - 1))
        return _straight(weight, (weight / scales).round().clamp(-COLUMN_CODES, COLUMN_CODES) * scales)


class RoundedBlocks(nn.Module):
    """One scale for each block of inputs, as MatMulNBits stores it; with a zero point unless it is symmetric."""

    def __init__(self, bits: int, block_size: int, symmetric: bool) -> None:
        super().__init__()
        self.bits, self.block_size, self.symmetric = bits, block_size, symmetric

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return [outputs, inputs], rounded."""
        outputs, inputs = weight.shape
        padded = nn.functional.pad(weight.detach(), (0, -inputs % self.block_size))
        blocks = padded.view(outputs, -1, self.block_size)
        rounded = self._symmetric(blocks) if self.symmetric else self._asymmetric(blocks)
        return _straight(weight, rounded.reshape(outputs, -1)[:, :inputs])

    def _symmetric(self, blocks: torch.Tensor) -> torch.Tensor:
        low, high = blocks.amin(2, keepdim=True), blocks.amax(2, keepdim=True)
        middle = 1 << (self.bits - 1)
        scales = _or_one(torch.where(high.abs() > low.abs(), high, low) / -middle)
        codes = (blocks / scales + middle + 0.5).floor().clamp(0, 2 * middle - 1)
        rounded: torch.Tensor = (codes - middle) * scales
        return rounded

    def _asymmetric(self, blocks: torch.Tensor) -> torch.Tensor:
        low, high = blocks.amin(2, keepdim=True).clamp(max=0), blocks.amax(2, keepdim=True).clamp(min=0)
        largest = (1 << self.bits) - 1
        scales = _or_one((high - low) / largest)
        middle = (-low / scales + 0.5).floor()
        codes = (blocks / scales + middle + 0.5).floor().clamp(0, largest)
        rounded: torch.Tensor = (codes - middle) * scales
        return rounded


def round_while_training(module: nn.Module, options: QuantizationAware) -> list[str]:
    """Let a module see its weights rounded, and return their names. Raises PassFailed where it has none to round."""
    kinds: tuple[type[nn.Module], ...] = _BY_CHANNEL if options.dtype == "int8" else (nn.Linear,)
    layers = [(name, part) for name, part in module.named_modules() if isinstance(part, kinds)]
    if not layers:
        raise PassFailed(f"distill: no layer can be rounded to {options.dtype}; leave quantization out")
    for _, part in layers:
        parametrize.register_parametrization(part, "weight", _rounding(options))
    return [f"{name}.weight".lstrip(".") for name, _ in layers]


def keep_rounded(module: nn.Module) -> None:
    """Make the rounded weights the weights."""
    for part in module.modules():
        if isinstance(part, _BY_CHANNEL) and parametrize.is_parametrized(part, "weight"):
            parametrize.remove_parametrizations(part, "weight", leave_parametrized=True)


def _rounding(options: QuantizationAware) -> nn.Module:
    if options.dtype == "int8":
        return RoundedChannels()
    return RoundedBlocks(BITS[options.dtype], options.block_size or BLOCK_SIZE, bool(options.symmetric))


def _straight(weight: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    return weight + (rounded - weight).detach()


def _or_one(scales: torch.Tensor) -> torch.Tensor:
    return torch.where(scales == 0, torch.ones_like(scales), scales)
