"""fp8: a quarter of the file, rounded as ml_dtypes rounds, and unpacked once, when the model is loaded."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from trimtab_optimizer.streaming.rewrite import rewrite
from trimtab_optimizer.streaming.schemes import Float8
from trimtab_testing.graphs import answer, matrix, mixed_model, model, tensors

FLOATS8 = pytest.mark.parametrize(
    ("kind", "rounded", "largest"),
    [
        pytest.param(TensorProto.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn, 448, id="e4m3"),
        pytest.param(TensorProto.FLOAT8E5M2, ml_dtypes.float8_e5m2, 57344, id="e5m2"),
    ],
)


def product(folder: Path, weight: Any) -> Path:
    return model(folder, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight}, *weight.shape, external=True)


@FLOATS8
def test_floats_of_8_bits_are_rounded_as_ml_dtypes_rounds_them(
    tmp_path: Path, kind: int, rounded: Any, largest: int
) -> None:
    source = mixed_model(tmp_path / "source", external=True)

    rewrite(source, tmp_path / "made.onnx", Float8(kind))

    before, made = tensors(source), tensors(tmp_path / "made.onnx")
    for name in ("a", "b", "c"):
        values = before[name].T if name == "c" else before[name]
        scales = np.abs(values).max(0) / np.float32(largest)
        np.testing.assert_array_equal(made[f"trimtab0.{name}_scales"], scales)
        np.testing.assert_array_equal(made[f"trimtab0.{name}_q"], (values / scales).astype(rounded))


@FLOATS8
def test_a_column_with_nothing_to_scale_becomes_zeros_of_floats_of_8_bits(
    tmp_path: Path, kind: int, rounded: Any, largest: int
) -> None:
    weight = matrix(32, 32)
    weight[:, 3], weight[:, 5] = 0, 9e-43  # the scale of the latter would have one bit, and the quotient be too large
    source = product(tmp_path / "source", weight)

    rewrite(source, tmp_path / "made.onnx", Float8(kind))

    made = tensors(tmp_path / "made.onnx")
    assert made["trimtab0.w_scales"][[3, 5]].tolist() == [1, 1]
    assert not made["trimtab0.w_q"].astype(np.float32)[:, [3, 5]].any()
    assert np.isfinite(made["trimtab0.w_q"].astype(np.float32)).all()


@FLOATS8
@pytest.mark.parametrize(("side", "left"), [(64, ["MatMul"]), (600, ["MatMul", "Mul"])])
def test_floats_of_8_bits_are_unpacked_at_loading_and_not_at_each_call(
    tmp_path: Path, kind: int, rounded: Any, largest: int, side: int, left: list[str]
) -> None:
    source = product(tmp_path / "source", matrix(side, side))
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")

    rewrite(source, tmp_path / "made.onnx", Float8(kind))

    ort.InferenceSession(str(tmp_path / "made.onnx"), options, providers=["CPUExecutionProvider"])
    assert [node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node] == left
    rows = matrix(9, side)
    expected = answer(source, rows)
    noise = float(np.square(answer(tmp_path / "made.onnx", rows) - expected).mean() / np.square(expected).mean())
    assert noise < 0.005


_PEAK = """
import sys
from pathlib import Path
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
ort.InferenceSession(sys.argv[1], options)
status = Path("/proc/self/status").read_text()
print(int(status.partition("VmHWM:")[2].split()[0]) // 1024)
"""


def test_to_load_large_matrices_of_8_bits_takes_no_more_memory_than_their_float32(tmp_path: Path) -> None:
    layers = [helper.make_node("MatMul", ["h" if n else "x", f"w{n}"], ["y" if n == 7 else "h"]) for n in range(8)]
    for n, node in enumerate(layers[:-1]):
        node.output[0] = layers[n + 1].input[0] = f"h{n}"
    weights = {f"w{n}": matrix(2048, 2048) for n in range(8)}
    source = model(tmp_path / "source", layers, weights, 2048, 2048, external=True)

    rewrite(source, tmp_path / "made.onnx", Float8(TensorProto.FLOAT8E4M3FN))

    command = [sys.executable, "-c", _PEAK]
    before, after = (
        int(subprocess.run([*command, path], capture_output=True, text=True, check=True).stdout)
        for path in (source, tmp_path / "made.onnx")
    )
    assert after - before < 64, (before, after)  # MiB; 128 are the weights in float32


def test_products_that_share_a_weight_share_what_is_unpacked_of_it(tmp_path: Path) -> None:
    source = mixed_model(tmp_path / "source", external=False)

    rewrite(source, tmp_path / "made.onnx", Float8(TensorProto.FLOAT8E4M3FN))

    kinds = [node.op_type for node in onnx.load(tmp_path / "made.onnx").graph.node]
    assert [kinds.count(kind) for kind in ("MatMul", "Cast", "Mul")] == [4, 3, 3]
