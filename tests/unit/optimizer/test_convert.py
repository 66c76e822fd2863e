"""convert: ONNX predicts what PyTorch predicts, with any batch, and its bytes depend on the source alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from trimtab_api.errors import InvalidSpec, PassFailed
from trimtab_api.spec import Convert, OptimizationPass
from trimtab_optimizer.data import load_data
from trimtab_optimizer.package import Model, load_package
from trimtab_optimizer.passes.contract import Workplace
from trimtab_optimizer.passes.convert import convert
from trimtab_optimizer.passes.verification import TOLERANCE
from trimtab_optimizer.predict import predictor_of
from trimtab_optimizer.store import open_store
from trimtab_optimizer.tensors import example_inputs

CONVERT = OptimizationPass(convert=Convert())


@pytest.mark.parametrize("example", ["digits", "attention"])
def test_onnx_predicts_what_pytorch_predicts(
    example: str, request: pytest.FixtureRequest, work: Callable[..., Workplace]
) -> None:
    build = request.getfixturevalue(f"{example}_build")
    source = load_package(build / "model")
    rows = load_data(build / "data-test", source.package, evaluation=True).inputs

    made = convert(CONVERT, source, work()).model

    expected = predictor_of(source, False).predict(rows)[0]
    found = predictor_of(made, False).predict(rows)[0]
    assert np.abs(expected - found).max() <= TOLERANCE * max(1.0, float(np.abs(expected).max()))
    assert (expected.argmax(1) == found.argmax(1)).all()


def test_any_batch_and_any_free_axis_are_taken(
    linear_package: Callable[..., Path], work: Callable[..., Workplace]
) -> None:
    code = (
        "from torch import nn\n\n\nclass Mean(nn.Linear):\n    def forward(self, x):\n"
        "        return super().forward(x).mean(1)\n\n\ndef build():\n    return Mean(4, 3)\n"
    )
    source = load_package(linear_package(code=code, inputs=[{"name": "x", "shape": [-1, -1, 4]}]))

    made = convert(CONVERT, source, work()).model

    predictor = predictor_of(made, False)
    for rows, length in ((1, 1), (2, 5), (7, 3)):
        assert predictor.predict({"x": np.ones((rows, length, 4), np.float32)})[0].shape == (rows, 3)


def test_several_inputs_and_outputs_keep_their_names(
    linear_package: Callable[..., Path], work: Callable[..., Workplace]
) -> None:
    code = (
        "import torch\nfrom torch import nn\n\n\nclass Two(nn.Linear):\n    def forward(self, x, ids):\n"
        "        y = super().forward(x)\n        return {'picked': y.gather(1, ids), 'y': y}\n\n\n"
        "def build():\n    return Two(4, 3)\n"
    )
    inputs = [{"name": "x", "shape": [-1, 4]}, {"name": "ids", "shape": [-1, 1], "datatype": "INT64"}]
    outputs = [{"name": "y", "shape": [-1, 3]}, {"name": "picked", "shape": [-1, 1]}]
    source = load_package(linear_package(code=code, inputs=inputs, outputs=outputs))

    made = convert(CONVERT, source, work()).model

    rows = example_inputs(source.package.inputs, 5, seed=1)
    y, picked = predictor_of(made, False).predict(rows)
    assert np.allclose(np.take_along_axis(y, rows["ids"], 1), picked)


def test_the_same_source_gives_the_same_bytes_anywhere(
    digits_build: Path, work: Callable[..., Workplace], tmp_path: Path
) -> None:
    store = open_store(directory=tmp_path / "registries")
    elsewhere = tmp_path / "elsewhere"
    store.push(digits_build / "model", "r.local/model", ("v1",), {})
    store.pull("oci://r.local/model:v1", elsewhere)

    here = convert(CONVERT, load_package(digits_build / "model"), work("here")).model
    there = convert(CONVERT, load_package(elsewhere), work("there")).model

    assert here.weights.read_bytes() == there.weights.read_bytes()
    assert str(tmp_path).encode() not in here.weights.read_bytes()
    assert b".py" not in here.weights.read_bytes()


def test_a_module_that_cannot_be_traced_is_a_failed_pass(
    linear_package: Callable[..., Path], work: Callable[..., Workplace]
) -> None:
    code = (
        "from torch import nn\n\n\nclass Branch(nn.Linear):\n    def forward(self, x):\n"
        "        return super().forward(x) if x.sum().item() > 0 else super().forward(-x)\n\n\n"
        "def build():\n    return Branch(4, 3)\n"
    )

    with pytest.raises(PassFailed, match="convert cannot export the module to ONNX"):
        convert(CONVERT, load_package(linear_package(code=code)), work())


def test_a_module_that_predicts_at_random_is_a_failed_pass(
    linear_package: Callable[..., Path], work: Callable[..., Workplace]
) -> None:
    code = (
        "import torch\nfrom torch import nn\n\n\nclass Noisy(nn.Linear):\n    def forward(self, x):\n"
        "        return super().forward(x + torch.rand_like(x))\n\n\ndef build():\n    return Noisy(4, 3)\n"
    )

    with pytest.raises(PassFailed, match=r"differ by .* allowed is 1e-04"):
        convert(CONVERT, load_package(linear_package(code=code)), work())


def test_onnx_is_passed_on_with_a_note(linear_package: Callable[..., Path], work: Callable[..., Workplace]) -> None:
    once = convert(CONVERT, load_package(linear_package()), work("once")).model

    twice = convert(CONVERT, once, work("twice"))

    assert twice.notes == {"note": "the model was ONNX already: nothing was done"}
    assert twice.model.weights.read_bytes() == once.weights.read_bytes()


def test_another_target_is_an_invalid_spec() -> None:
    with pytest.raises(InvalidSpec, match="'onnx', 'litert', 'savedmodel' or 'genai'"):
        Convert.parse({"to": "tensorflow"})


def test_the_graph_is_valid_onnx_and_named_like_model_yaml(digits_build: Path, work: Callable[..., Workplace]) -> None:
    made: Model = convert(CONVERT, load_package(digits_build / "model"), work()).model

    graph: Any = onnx.load(made.weights).graph
    onnx.checker.check_model(str(made.weights))
    assert [value.name for value in graph.input] == ["pixels"]
    assert [value.name for value in graph.output] == ["logits"]
