"""Builds the module of a program that was laid out. A copy of this file makes its folder a PyTorch package."""

from pathlib import Path

from torch import nn

from trimtab_optimizer.importers.programs.layout import build_module


def build() -> nn.Module:
    """Return the module of program.json, without weights."""
    return build_module(Path(__file__).parent)
