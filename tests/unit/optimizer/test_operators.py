"""The report counts the operators of each ONNX model, so what a pass replaced can be seen."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper, save

from trimtab_api.package import ModelPackage
from trimtab_optimizer.measuring.operators import count_operators
from trimtab_optimizer.package import Model, load_package

PACKAGE = ModelPackage.parse(
    {
        "name": "graph",
        "format": "onnx",
        "inputs": [{"name": "x", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "shape": [-1, 4]}],
    }
)


def test_operators_of_branches_are_counted_too(tmp_path: Path) -> None:
    branch = [helper.make_node("Relu", ["x"], ["z"]), helper.make_node("Relu", ["z"], ["t"])]
    other = [helper.make_node("Neg", ["x"], ["t"])]
    inner = [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)]
    ways = {name: helper.make_graph(nodes, name, [], inner) for name, nodes in (("yes", branch), ("no", other))}
    chosen = helper.make_node("If", ["c"], ["y"], then_branch=ways["yes"], else_branch=ways["no"])
    outer = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 4]) for name in "xy"]
    fixed = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    save(helper.make_model(helper.make_graph([chosen], "g", outer[:1], outer[1:], [fixed])), tmp_path / "model.onnx")

    assert count_operators(Model(tmp_path, PACKAGE)) == {"Relu": 2, "If": 1, "Neg": 1}


def test_a_module_has_no_operators_to_count(linear_package: Callable[..., Path]) -> None:
    assert count_operators(load_package(linear_package())) is None


@pytest.mark.parametrize("reused", [False, True])
def test_the_report_of_each_pass_that_ran_has_them(
    digits: dict[str, str], run_job: Callable[..., Any], report_of: Callable[[Any], Any], reused: bool
) -> None:
    passes: list[dict[str, Any]] = [{"convert": {}}, {"quantize": {"mode": "dynamic"}}]
    if reused:
        run_job({"source": {"uri": digits["model"]}, "passes": passes[:1], "evaluationData": digits["test"]})

    answer = run_job({"source": {"uri": digits["model"]}, "passes": passes, "evaluationData": digits["train"]})

    convert, quantize = report_of(answer)["passes"]
    assert convert.get("operators", {}).get("Conv") == (None if reused else 2)
    assert quantize["operators"]["MatMulInteger"] > 0
    assert ("metrics" in convert) is not reused
