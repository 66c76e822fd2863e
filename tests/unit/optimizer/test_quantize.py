"""quantize: int8 that is really smaller and predicts as well, or an error that says why not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from trimtab_api.errors import PassFailed
from trimtab_api.plan import Plan
from trimtab_api.spec import Calibration, Convert, OptimizationPass, Quantize
from trimtab_optimizer.data import load_data
from trimtab_optimizer.evaluate import compare, measure
from trimtab_optimizer.package import Model, load_package
from trimtab_optimizer.passes import check_order
from trimtab_optimizer.passes.contract import Workplace
from trimtab_optimizer.passes.convert import convert
from trimtab_optimizer.passes.quantize import quantize

STATIC = OptimizationPass(quantize=Quantize(mode="static", calibration=Calibration(uri="oci://a/b", samples=256)))
DYNAMIC = OptimizationPass(quantize=Quantize(mode="dynamic"))


def _converted(folder: Path, work: Workplace) -> Model:
    return convert(OptimizationPass(convert=Convert()), load_package(folder), work).model


@pytest.mark.parametrize(
    ("example", "item"),
    [("digits", STATIC), ("digits", DYNAMIC), ("attention", STATIC), ("attention", DYNAMIC)],
    ids=["digits static", "digits dynamic", "attention static", "attention dynamic"],
)
def test_int8_is_smaller_and_within_one_point_of_accuracy(
    example: str, item: OptimizationPass, request: pytest.FixtureRequest, work: Callable[..., Workplace]
) -> None:
    build = request.getfixturevalue(f"{example}_build")
    source = load_package(build / "model")
    calibration = load_data(build / "data-train", source.package, evaluation=False)
    test = load_data(build / "data-test", source.package, evaluation=True)

    made = quantize(item, _converted(build / "model", work("onnx")), work("int8", calibration)).model

    figures = compare(measure(source, test, False, 0), measure(made, test, False, 0))
    metrics = {metric.name: metric for metric in figures}
    accuracy, size = metrics["accuracy"], metrics["sizeBytes"]
    assert accuracy.source is not None
    assert accuracy.value is not None
    assert accuracy.source > 0.93
    assert accuracy.value >= accuracy.source - 0.01
    assert (metrics["agreement"].value or 0) >= 0.98
    assert (size.value or 0) < 0.5 * (size.source or 0)
    assert (metrics["latencyP95Ms"].value or 0) > 0


@pytest.mark.parametrize(
    ("options", "drop", "ratio"),
    [
        pytest.param(Quantize(dtype="int8", mode="weights"), 0.005, 0.40, id="int8 weights"),
        pytest.param(Quantize(dtype="int4"), 0.01, 0.30, id="int4"),
        pytest.param(Quantize(dtype="int4", symmetric=True, block_size=16), 0.01, 0.30, id="int4 symmetric"),
        pytest.param(Quantize(dtype="int4", block_size=128), 0.01, 0.30, id="int4 in large blocks"),
        pytest.param(Quantize(dtype="int2", block_size=16), 0.10, 0.25, id="int2"),
        pytest.param(Quantize(dtype="fp16"), 0.0, 0.56, id="fp16"),
        pytest.param(Quantize(dtype="bf16"), 0.002, 0.56, id="bf16"),
        pytest.param(Quantize(dtype="fp8e4m3"), 0.005, 0.35, id="fp8e4m3"),
        pytest.param(Quantize(dtype="fp8e5m2"), 0.005, 0.35, id="fp8e5m2"),
    ],
)
@pytest.mark.parametrize("example", ["digits", "attention"])
def test_weights_in_fewer_bits_are_smaller_and_keep_the_accuracy_that_is_promised(
    example: str,
    options: Quantize,
    drop: float,
    ratio: float,
    request: pytest.FixtureRequest,
    work: Callable[..., Workplace],
) -> None:
    build = request.getfixturevalue(f"{example}_build")
    source = load_package(build / "model")
    test = load_data(build / "data-test", source.package, evaluation=True)
    converted = _converted(build / "model", work("onnx"))

    outcome = quantize(OptimizationPass(quantize=options), converted, work("fewer"))

    metrics = {
        item.name: item for item in compare(measure(source, test, False, 0), measure(outcome.model, test, False, 0))
    }
    assert (metrics["accuracy"].value or 0) >= (metrics["accuracy"].source or 1) - drop
    assert outcome.model.size_bytes() <= ratio * converted.size_bytes()
    assert outcome.notes["gain"] == ("storage" if "fp" in options.dtype or options.dtype == "bf16" else "speed")


@pytest.mark.parametrize("item", [STATIC, DYNAMIC], ids=["static", "dynamic"])
def test_the_same_model_is_quantized_to_the_same_bytes(
    digits_build: Path, work: Callable[..., Workplace], item: OptimizationPass
) -> None:
    onnx_model = _converted(digits_build / "model", work("onnx"))
    calibration = load_data(digits_build / "data-train", onnx_model.package, evaluation=False)

    first = quantize(item, onnx_model, work("first", calibration)).model
    second = quantize(item, onnx_model, work("second", calibration)).model

    assert first.weights.read_bytes() == second.weights.read_bytes()


@pytest.mark.parametrize("first", ["int8", "int4", "fp8e4m3", "fp8e5m2"])
def test_a_model_quantized_already_is_a_failed_pass(
    digits_build: Path, work: Callable[..., Workplace], first: str
) -> None:
    item = OptimizationPass(quantize=Quantize(dtype=first))
    once = quantize(item, _converted(digits_build / "model", work("onnx")), work("once")).model

    with pytest.raises(PassFailed, match="the model is quantized already; leave the pass out"):
        quantize(DYNAMIC, once, work("twice"))


@pytest.fixture
def graph(tmp_path: Path) -> Callable[..., Model]:
    """Write an ONNX model of one node."""

    def write(node: Any, weights: list[Any], outputs: int = 4) -> Model:
        value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", outputs])
        made = helper.make_graph([node], "g", [value], [out], weights)
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        folder = tmp_path / "graph"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        tensors = {"inputs": [{"name": "x", "shape": [-1, 4]}], "outputs": [{"name": "y", "shape": [-1, outputs]}]}
        (folder / "model.yaml").write_text(yaml.safe_dump({"name": "g", "format": "onnx", **tensors}))
        return load_package(folder)

    return write


def test_a_graph_without_anything_to_quantize_is_a_failed_pass(
    graph: Callable[..., Model], work: Callable[..., Workplace]
) -> None:
    model = graph(helper.make_node("Relu", ["x"], ["y"]), [])

    with pytest.raises(PassFailed, match="changed nothing: it covers MatMul and Gemm with constant weights"):
        quantize(DYNAMIC, model, work("int8"))


def test_a_graph_that_would_grow_is_a_failed_pass(graph: Callable[..., Model], work: Callable[..., Workplace]) -> None:
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 16], [0.1 * n for n in range(64)])
    model = graph(helper.make_node("MatMul", ["x", "w"], ["y"]), [weights], outputs=16)

    with pytest.raises(PassFailed, match=r"gained nothing: \d+ bytes before, \d+ after"):
        quantize(DYNAMIC, model, work("int8"))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (Quantize(dtype="int3"), "cannot make `int3`; use one of int2, int4, int8, fp16, bf16, fp8e4m3, fp8e5m2"),
        (Quantize(mode="magic"), "no mode `magic`; use one of dynamic, static, weights"),
        (Quantize(dtype="int4", mode="dynamic"), "only int8 has the mode dynamic; leave mode out for int4"),
        (Quantize(dtype="fp8e4m3", mode="dynamic"), "only int8 has the mode dynamic; leave mode out for fp8e4m3"),
        (Quantize(mode="static"), "mode static needs data; add calibration"),
    ],
)
def test_options_that_do_not_exist_are_a_failed_pass(
    graph: Callable[..., Model], work: Callable[..., Workplace], options: Quantize, named: str
) -> None:
    model = graph(helper.make_node("Relu", ["x"], ["y"]), [])

    with pytest.raises(PassFailed, match=named):
        quantize(OptimizationPass(quantize=options), model, work("int8"))


@pytest.mark.parametrize(
    ("passes", "named"),
    [
        ([{"quantize": {}}], r"pass 1 \(quantize\) cannot follow a pytorch source"),
        (
            [{"convert": {}}, {"quantize": {}}, {"quantize": {}}],
            r"pass 3 \(quantize\) cannot follow pass 2 \(quantize\)",
        ),
        (
            [{"convert": {"to": "savedmodel"}}, {"quantize": {}}],
            r"pass 2 \(quantize\) cannot follow pass 1 \(convert\): it needs a model in .* or onnx, not savedmodel",
        ),
        (
            [{"convert": {"to": "litert"}}, {"quantize": {"dtype": "int2"}}],
            r"pass 2 \(quantize\) cannot follow pass 1 \(convert\): LiteRT computes in int8 and int4, not in int2",
        ),
        (
            [{"convert": {"to": "litert"}}, {"quantize": {"mode": "auto", "calibration": {"uri": "oci://a/b:v1"}}}],
            "mode auto compares kernels of ONNX Runtime; set mode dynamic or static",
        ),
        (
            [{"convert": {"to": "litert"}}, {"quantize": {"dtype": "int4", "blockSize": 32}}],
            "one scale for each channel and no other choice; remove blockSize",
        ),
        (
            [{"convert": {"to": "litert"}}, {"clip": {"percentile": 99}}],
            r"pass 2 \(clip\) cannot follow pass 1 \(convert\): .* exported program or onnx or pytorch, not litert",
        ),
        ([{"convert": {}}, {"quantize": {}}, {"convert": {}}], r"pass 3 \(convert\) cannot follow pass 2 \(quantize\)"),
        ([], r"ends with a pytorch source, which cannot be served"),
    ],
)
def test_passes_that_cannot_follow_each_other_are_both_named(passes: list[Any], named: str) -> None:
    with pytest.raises(PassFailed, match=named):
        check_order(Plan.parse({"source": {"uri": "oci://a/b"}, "passes": passes}))


@pytest.mark.parametrize("example", ["digits", "attention"])
def test_auto_takes_the_mode_that_was_faster_here(
    example: str, request: pytest.FixtureRequest, work: Callable[..., Workplace]
) -> None:
    build = request.getfixturevalue(f"{example}_build")
    source = load_package(build / "model")
    rows = load_data(build / "data-train", source.package, evaluation=False)
    calibration = Calibration(uri="oci://a/b", samples=64)
    auto = OptimizationPass(quantize=Quantize(mode="auto", calibration=calibration))

    done = quantize(auto, _converted(build / "model", work("onnx")), work("auto", rows))

    ratios = done.notes["latencyRatios"]
    assert isinstance(ratios, dict)
    assert set(ratios) == {"static", "dynamic"}
    assert ratios[done.notes["mode"]] == min(ratios.values())


def test_the_full_range_is_finer(digits_build: Path, work: Callable[..., Workplace]) -> None:
    onnx_model = _converted(digits_build / "model", work("onnx"))
    codes = []
    for full in (False, True):
        item = OptimizationPass(quantize=Quantize(mode="dynamic", full_range=full))
        graph = onnx.load(quantize(item, onnx_model, work(f"full-{full}")).model.weights).graph
        codes.append(
            max(abs(numpy_helper.to_array(t).astype(int)).max() for t in graph.initializer if t.data_type == 3)
        )

    assert codes == [64, 127]
