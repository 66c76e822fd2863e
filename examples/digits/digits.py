"""Builds the network of the digits package; `model.yaml` names it as `digits:build`."""

from torch import nn


def build() -> nn.Module:
    """Return the untrained network: pixels [rows, 64] to logits [rows, 10]."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
