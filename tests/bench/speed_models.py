"""Models with random weights, large enough that their kernels take the time: speed does not depend on what they know.

A copy of this file is the code of each package.
"""

import torch
from torch import nn
from torch.nn.functional import relu, scaled_dot_product_attention


class Residual(nn.Module):
    """Two convolutions beside a shortcut, each with its norm."""

    def __init__(self, width: int, stride: int, before: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(width)])
        self.shortcut = nn.Conv2d(before, width, 1, stride, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        inner = relu(self.norms[0](self.first(images)))
        return relu(self.norms[1](self.second(inner)) + self.shortcut(images))


class Attention(nn.Module):
    """Self-attention that says how many heads it has."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            layer(tokens).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        return self.output(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """One layer of a transformer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = Attention(width, heads)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.attention(self.norms[0](tokens))
        return tokens + self.feed_forward(self.norms[1](tokens))


class Classifier(nn.Module):
    """The mean of the tokens decides."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.head = nn.Linear(width, 10)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(tokens).mean(1))


def convolutional() -> nn.Module:
    """Return a network like ResNet-18: images [rows, 3, 112, 112] to [rows, 10]."""
    widths = (64, 64, 128, 256, 512)
    stages = [Residual(width, 2 if n else 1, widths[max(n - 1, 0)]) for n, width in enumerate(widths)]
    stem = nn.Conv2d(3, 64, 7, 2, 3)
    return nn.Sequential(stem, nn.ReLU(), *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def transformer() -> nn.Module:
    """Return six layers of a transformer: tokens [rows, 128, 512] to [rows, 10]."""
    return Classifier(512, 6, 8)


def dense() -> nn.Module:
    """Return three wide layers: values [rows, 1024] to [rows, 10]."""
    return nn.Sequential(
        nn.Linear(1024, 2048),
        nn.ReLU(),
        nn.Linear(2048, 2048),
        nn.ReLU(),
        nn.Linear(2048, 1024),
        nn.ReLU(),
        nn.Linear(1024, 10),
    )
