"""The memory of a model, measured in a process of its own, and absent with a reason where that fails."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from trimtab_api.package import ModelPackage
from trimtab_optimizer.measuring import memory
from trimtab_optimizer.measuring.memory import peak_memory
from trimtab_optimizer.package import Model, load_package, write_package

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps the peak of a process")

MIB = 1 << 20
ROWS = {"x": np.zeros((3, 1024), np.float32)}


def product(folder: Path, columns: int) -> Model:
    """Write a model of one product with 1024 rows."""
    folder.mkdir()
    shape = {"x": ["rows", 1024], "y": ["rows", columns]}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape[name]) for name in "xy"]
    weight = numpy_helper.from_array(np.ones((1024, columns), np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    made = helper.make_graph([node], "g", ends[:1], ends[1:], [weight])
    save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), folder / "model.onnx")
    wire = {"name": "m", "format": "onnx", "inputs": [{"name": "x", "shape": [-1, 1024]}]}
    package = ModelPackage.parse({**wire, "outputs": [{"name": "y", "shape": [-1, columns]}]})
    return write_package(folder, package)


def test_a_larger_model_takes_as_much_more_as_its_weights(tmp_path: Path) -> None:
    small, large = (
        peak_memory(product(tmp_path / name, n), ROWS, False, tmp_path) for name, n in (("s", 64), ("l", 16384))
    )

    assert isinstance(small, int)
    assert isinstance(large, int)
    assert 64 * MIB <= large - small < 300 * MIB


def test_a_module_is_measured_too(linear_package: Callable[..., Path], tmp_path: Path) -> None:
    found = peak_memory(load_package(linear_package()), {"x": np.zeros((3, 4), np.float32)}, False, tmp_path)

    assert isinstance(found, int)
    assert found < 100 * MIB


def test_code_that_ends_the_process_leaves_the_figure_absent(
    linear_package: Callable[..., Path], tmp_path: Path
) -> None:
    folder = linear_package(code="import os\n\n\ndef build():\n    os._exit(7)\n")

    found = peak_memory(load_package(folder), {"x": np.zeros((3, 4), np.float32)}, False, tmp_path)

    assert found == "the process that loads the model ended with 7: no message"


def test_a_process_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SECONDS", 0.01)

    assert peak_memory(product(tmp_path / "m", 64), ROWS, False, tmp_path) == "took longer than 0.01 s"
    assert not list(tmp_path.glob("memory-*"))


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    peak_memory(product(tmp_path / "m", 64), ROWS, False, tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["m"]
