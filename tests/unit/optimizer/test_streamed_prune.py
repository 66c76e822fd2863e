"""Channels go out of modules too large to be held: the same ones as of those that are, without a value in memory."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from trimtab_api.errors import InvalidPackage, PassFailed
from trimtab_api.spec import OptimizationPass, Prune
from trimtab_optimizer.importers import empty
from trimtab_optimizer.package import Model, load_package
from trimtab_optimizer.passes.contract import Workplace
from trimtab_optimizer.passes.prune import prune

Work = Callable[..., Workplace]

MIXED = """
import torch
from torch import nn
from torch.nn.functional import relu


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 64, 3, padding=1)
        self.norm = nn.BatchNorm2d(64)
        self.grouped = nn.Conv2d(64, 64, 3, padding=1, groups=64)
        self.up = nn.ConvTranspose2d(64, 32, 2, 2)
        self.inner, self.layer = nn.Linear(32, 64), nn.LayerNorm(64)
        self.outer = nn.Linear(64, 5)

    def forward(self, x):
        x = relu(self.norm(self.first(x)))
        x = self.up(x + self.grouped(x)).mean((2, 3))
        return self.outer(self.layer(relu(self.inner(x)))) + torch.arange(5)


def build():
    return Network()
"""
TIED = """
from torch import nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.one, self.two = nn.Linear(16, 64), nn.Linear(64, 64), nn.Linear(64, 64)
        self.outer = nn.Linear(64, 5)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.outer(self.two(self.one(self.into(x)).relu()))


def build():
    return Network()
"""


def pruning(**options: object) -> OptimizationPass:
    return OptimizationPass(prune=Prune.parse({"amount": 0.5, **options}))


def held_and_streamed(
    source: Model, work: Work, monkeypatch: pytest.MonkeyPatch, **options: object
) -> tuple[Model, Model]:
    """Prune a model in both ways."""
    held = prune(pruning(**options), source, work("held"))
    monkeypatch.setattr(empty, "LARGEST_HELD", 0)
    streamed = prune(pruning(**options), source, work("streamed"))
    assert streamed.notes == held.notes
    return held.model, streamed.model


def assert_alike(held: Model, streamed: Model) -> None:
    expected, found = load_file(held.weights), load_file(streamed.weights)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert (held.folder / "structure.json").read_bytes() == (streamed.folder / "structure.json").read_bytes()


@pytest.fixture
def mixed(linear_package: Callable[..., Path]) -> Model:
    """Convolutions, one of each kind, norms and linear layers, with random weights."""
    namespace: dict[str, Callable[[], torch.nn.Module]] = {}
    exec(MIXED, namespace)
    weights = namespace["build"]().state_dict()
    return load_package(
        linear_package(
            code=MIXED,
            weights={name: torch.rand_like(value.float()).to(value.dtype) for name, value in weights.items()},
            inputs=[{"name": "x", "datatype": "FP32", "shape": [-1, 3, 8, 8]}],
            outputs=[{"name": "y", "datatype": "FP32", "shape": [-1, 5]}],
        )
    )


@pytest.mark.parametrize("method", ["l1", "l2", "random"])
@pytest.mark.parametrize("example", ["digits_build", "attention_build"])
def test_the_same_channels_go_as_of_a_module_that_is_held(
    example: str, method: str, request: pytest.FixtureRequest, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = load_package(request.getfixturevalue(example) / "model")

    assert_alike(*held_and_streamed(source, work, monkeypatch, method=method))


@pytest.mark.parametrize("is_large", [False, True])
def test_gains_of_a_norm_stay_with_their_channels_where_much_goes(
    is_large: bool, mixed: Model, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = load_file(mixed.weights)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0)).float()
    weights |= {name: order.clone() for name in ("inner.bias", "layer.weight", "layer.bias")}
    save_file(weights, mixed.weights)
    monkeypatch.setattr(empty, "LARGEST_HELD", 0 if is_large else 1 << 30)

    made = load_file(prune(pruning(amount=0.8, roundTo=1, method="random"), mixed, work()).model.weights)

    assert len(made["inner.bias"]) < 16
    assert torch.equal(made["layer.weight"], made["inner.bias"])
    assert torch.equal(made["layer.bias"], made["inner.bias"])


@pytest.mark.parametrize("options", [{}, {"iterations": 3}, {"scope": "global"}, {"ignoredLayers": ["first"]}])
def test_the_same_channels_go_of_every_kind_of_layer(
    options: dict[str, object], mixed: Model, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, streamed = held_and_streamed(mixed, work, monkeypatch, **options)

    assert_alike(held, streamed)
    assert streamed.size_bytes() < mixed.size_bytes()


def test_tied_weights_that_would_be_cut_apart_are_refused_by_name(
    linear_package: Callable[..., Path], work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = {"into.weight": (64, 16), "one.weight": (64, 64), "outer.weight": (5, 64)}
    biases = {"into.bias": (64,), "one.bias": (64,), "two.bias": (64,), "outer.bias": (5,)}
    weights = {name: torch.randn(shape) for name, shape in {**shapes, **biases}.items()}
    inputs = [{"name": "x", "datatype": "FP32", "shape": [-1, 16]}]
    outputs = [{"name": "y", "datatype": "FP32", "shape": [-1, 5]}]
    source = load_package(linear_package(code=TIED, weights=weights, inputs=inputs, outputs=outputs))
    monkeypatch.setattr(empty, "LARGEST_HELD", 0)

    with pytest.raises(PassFailed, match="one tensor; ignore one of the layers"):
        prune(pruning(), source, work())


def test_weights_that_are_no_numbers_are_refused_by_name(
    mixed: Model, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = load_file(mixed.weights)
    weights["inner.weight"][3, 5] = np.nan
    save_file(weights, mixed.weights)
    monkeypatch.setattr(empty, "LARGEST_HELD", 0)

    with pytest.raises(InvalidPackage, match=r"inner\.weight holds NaN"):
        prune(pruning(), mixed, work())
