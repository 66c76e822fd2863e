"""TorchScript, by opt-in, answers as a program what it answered before, or is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trimtab_api.errors import InvalidPackage, UnsafeFormat
from trimtab_optimizer.predict import predictor_of
from trimtab_testing.programs import SCRIPT, Linear, imported, write

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class Branch(Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.linear(x, self.weight, self.bias)
        if bool(y.sum() > 0):
            y = y * 2
        return y


@pytest.mark.parametrize("make", [torch.jit.script, lambda module: torch.jit.trace(module, torch.randn(2, 4))])
def test_torchscript_answers_what_it_did(tmp_path: Path, make: Callable[[nn.Module], Any]) -> None:
    script = make(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).eval())

    made = imported(write(tmp_path / "package", script, SCRIPT), SCRIPT, allow_pickle=True)

    x = torch.randn(5, 4)
    assert np.allclose(predictor_of(made, False).predict({"x": x.numpy()})[0], script(x).detach().numpy(), atol=1e-6)


def test_a_branch_of_torchscript_is_kept(tmp_path: Path) -> None:
    script = torch.jit.script(Branch().eval())

    made = imported(write(tmp_path / "package", script, SCRIPT), SCRIPT, allow_pickle=True)

    for x in (torch.full((3, 4), 10.0), torch.full((3, 4), -10.0)):
        found = predictor_of(made, False).predict({"x": x.numpy()})[0]
        assert np.allclose(found, script(x).detach().numpy(), atol=1e-5)


def test_torchscript_without_opt_in_is_not_even_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "package", torch.jit.script(Linear()), SCRIPT)
    (folder / "model.pt").write_bytes(b"not even read")

    with pytest.raises(UnsafeFormat, match=r"can run code and write files; set spec\.model\.allowPickle: true"):
        imported(folder, SCRIPT)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-300]), "is not TorchScript that can be read here"),
        (lambda file: torch.save({"weight": torch.ones(2)}, file), r"weights of torch\.save are format: pytorch"),
        (
            lambda file: torch.jit.save(torch.jit.trace(nn.Unflatten(1, (2, 2)), torch.randn(2, 4)), str(file)),
            "names 1 output|output y has the shape",
        ),
    ],
)
def test_torchscript_that_cannot_be_taken_is_refused(tmp_path: Path, spoil: Callable[[Path], Any], named: str) -> None:
    folder = write(tmp_path / "package", torch.jit.script(Linear()), SCRIPT)
    spoil(folder / "model.pt")

    with pytest.raises(InvalidPackage, match=named):
        imported(folder, SCRIPT, allow_pickle=True)


class Fixed(Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).reshape(2, 3)


def test_torchscript_that_was_traced_for_two_rows_is_refused(tmp_path: Path) -> None:
    script = torch.jit.trace(Fixed(), torch.randn(2, 4), check_trace=False)

    with pytest.raises(InvalidPackage, match=r"fixed batch size 2|script the module, or trace it without lengths"):
        imported(write(tmp_path / "package", script, SCRIPT), SCRIPT, allow_pickle=True)
