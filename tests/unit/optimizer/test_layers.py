"""The layers that a pass changed most, found by the names that results keep."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from trimtab_api.package import ModelPackage
from trimtab_optimizer.measuring import layers
from trimtab_optimizer.measuring.layers import sqnr_db, worst_layers
from trimtab_optimizer.package import Model, load_package

PACKAGE = ModelPackage.parse(
    {
        "name": "graph",
        "format": "onnx",
        "inputs": [{"name": "x", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "shape": [-1, 4]}],
    }
)
RANDOM = np.random.default_rng(3)
ROWS = {"x": RANDOM.standard_normal((40, 4)).astype(np.float32)}
FIRST, SECOND = (RANDOM.standard_normal((4, 4)).astype(np.float32) for _ in range(2))


@pytest.fixture
def graph(tmp_path: Path) -> Callable[..., Model]:
    """Write an ONNX model of products in a row, one for each weight; the last gives y."""

    def write(*weights: Any) -> Model:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        names = ["x", *(f"h{n}" for n in range(1, len(weights))), "y"]
        nodes = [helper.make_node("MatMul", [names[n], f"w{n}"], [names[n + 1]]) for n in range(len(weights))]
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 4]) for name in "xy"]
        constants = [numpy_helper.from_array(weight, f"w{n}") for n, weight in enumerate(weights)]
        made = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
        save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), folder / "model.onnx")
        return Model(folder, PACKAGE)

    return write


def test_the_layer_with_the_most_noise_comes_first(graph: Callable[..., Model]) -> None:
    noisy = FIRST + np.float32(0.01) * RANDOM.standard_normal((4, 4)).astype(np.float32)

    found = worst_layers(graph(FIRST, SECOND), graph(noisy, SECOND), ROWS)

    assert not isinstance(found, str)
    assert {layer.name: layer.weight for layer in found} == {"h1": "w0", "y": "w1"}
    assert [layer.sqnr_db for layer in found] == sorted(layer.sqnr_db for layer in found)
    rows = ROWS["x"][:32].astype(np.float64)
    expected = 10 * math.log10(np.square(rows @ FIRST).sum() / np.square(rows @ (noisy - FIRST)).sum())
    assert {layer.name: layer.sqnr_db for layer in found}["h1"] == pytest.approx(expected, abs=0.01)


def test_five_layers_are_listed_and_those_that_are_the_same_are_not(graph: Callable[..., Model]) -> None:
    same, other = [FIRST / 3] * 9, [FIRST / 3, FIRST / 3, *[FIRST / 2.9] * 7]

    found = worst_layers(graph(*same), graph(*other), ROWS)

    assert not isinstance(found, str)
    assert len(found) == 5
    assert {"h1", "h2"}.isdisjoint(layer.name for layer in found)


def test_two_equal_models_have_no_worst_layer(graph: Callable[..., Model]) -> None:
    assert worst_layers(graph(FIRST), graph(FIRST), ROWS) == ()


@pytest.mark.parametrize(
    ("signal", "noise", "decibels"),
    [(100.0, 1.0, 20.0), (1.0, 1.0, 0.0), (1.0, 0.0, 200.0), (0.0, 1.0, -200.0), (1.0, math.nan, -200.0)],
)
def test_signal_to_noise_is_in_decibels_and_always_a_number(signal: float, noise: float, decibels: float) -> None:
    assert sqnr_db(signal, noise) == decibels


def test_a_module_and_a_large_model_are_not_compared(
    graph: Callable[..., Model], linear_package: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = graph(FIRST)
    assert "one of these is a module" in worst_layers(load_package(linear_package()), model, ROWS)

    monkeypatch.setattr(layers, "LARGEST", 16)
    assert "compares models of at most" in worst_layers(model, model, ROWS)


def test_a_graph_that_cannot_be_run_so_fails_nothing(graph: Callable[..., Model]) -> None:
    assert "the graphs cannot be run with more outputs" in worst_layers(graph(FIRST), graph(FIRST), {"z": ROWS["x"]})


@pytest.mark.parametrize(
    ("quantize", "least", "most"),
    [({"mode": "static"}, 25, 60), ({"mode": "dynamic"}, 30, 60), ({"dtype": "int2", "blockSize": 16}, 5, 30)],
)
def test_every_way_to_quantize_keeps_names_by_which_its_noise_is_found(
    digits: dict[str, str],
    run_job: Callable[..., Any],
    report_of: Callable[[Any], Any],
    quantize: dict[str, Any],
    least: float,
    most: float,
) -> None:
    calibration = {"calibration": {"uri": digits["train"], "samples": 64}} if quantize.get("mode") == "static" else {}
    passes = [{"convert": {}}, {"quantize": quantize | calibration}]

    report = report_of(
        run_job({"source": {"uri": digits["model"]}, "passes": passes, "evaluationData": digits["test"]})
    )

    convert, quantized = report["passes"]
    assert "one of these is a module" in convert["absent"]["worstLayers"]
    assert "logits" in {layer["name"] for layer in quantized["worstLayers"]}
    assert all(least < layer["sqnrDb"] < most for layer in quantized["worstLayers"])
    assert quantized["metrics"]["memoryBytes"] > 0
