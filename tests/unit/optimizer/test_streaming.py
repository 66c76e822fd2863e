"""The streaming engine: the bytes of ONNX Runtime's own quantizer, in memory that does not grow with the model."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi import _pybind_state as native
from onnxruntime.quantization import QuantType, quantize_dynamic

from trimtab_api.errors import InvalidPackage, PassFailed
from trimtab_optimizer.streaming import direct, output
from trimtab_optimizer.streaming import rewrite as engine
from trimtab_optimizer.streaming.compiled import columns_quantizer, rows_quantizer
from trimtab_optimizer.streaming.kernels import column_scales, pack_zeros, quantize_blocks, quantize_columns
from trimtab_optimizer.streaming.rewrite import rewrite
from trimtab_optimizer.streaming.schemes import Blockwise, DynamicInt8, Float8, Scheme, Stored
from trimtab_testing.graphs import answer, matrix, mixed_model, model, tensors

SCHEMES: dict[str, Callable[[], Scheme]] = {
    "int8 dynamic": DynamicInt8,
    "int8": lambda: Blockwise(8, 32, False),
    "int4": lambda: Blockwise(4, 32, False),
    "int4 symmetric": lambda: Blockwise(4, 16, True),
    "int2": lambda: Blockwise(2, 16, False),
    "fp16": lambda: Stored(TensorProto.FLOAT16),
    "bf16": lambda: Stored(TensorProto.BFLOAT16),
    "fp8e4m3": lambda: Float8(TensorProto.FLOAT8E4M3FN),
    "fp8e5m2": lambda: Float8(TensorProto.FLOAT8E5M2),
}


@pytest.fixture(params=[False, True], ids=["within the graph", "beside the graph"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return mixed_model(tmp_path / "source", external=request.param)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("rows", "columns", "block"), [(256, 64, 32), (128, 33, 16), (1024, 16, 128)])
def test_blocks_are_the_bytes_of_onnx_runtimes_own_quantizer(
    bits: int, symmetric: bool, rows: int, columns: int, block: int
) -> None:
    values, blocks = matrix(rows, columns), rows // block
    values[:block, 0] = 0  # a block without a scale
    codes = np.zeros((columns, blocks, block * bits // 8), np.uint8)
    scales = np.zeros(columns * blocks, np.float32)
    zeros = np.zeros(columns * -(-blocks * bits // 8), np.uint8)
    own = getattr(native, f"quantize_matmul_{bits}bits")
    own(codes, values, scales, zeros, block, columns, rows, symmetric)

    found = quantize_blocks(values, bits, block, symmetric)

    np.testing.assert_array_equal(found.packed.transpose(1, 0, 2), codes)
    np.testing.assert_array_equal(found.scales.T.ravel(), scales)
    if found.zeros is not None and blocks * bits % 8 == 0:
        np.testing.assert_array_equal(pack_zeros(found.zeros.T.copy(), bits).ravel(), zeros)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)])
@pytest.mark.parametrize(("rows", "columns", "block"), [(96, 300, 32), (70, 33, 16)])
def test_what_is_compiled_gives_the_same_bytes(
    bits: int, symmetric: bool, dtype: np.dtype[Any], rows: int, columns: int, block: int
) -> None:
    values = matrix(rows, columns).astype(dtype)
    values[:block, 0], values[:block, 1] = 0, -1
    expected = quantize_blocks(values.astype(np.float32), bits, block, symmetric)
    form = (columns, -(-rows // block))
    shift = np.uint32(16 if dtype.itemsize == 2 else 0)

    for stored, quantizer in ((values, columns_quantizer), (np.ascontiguousarray(values.T), rows_quantizer)):
        codes, zeros = np.zeros((*form, block * bits // 8), np.uint8), np.zeros(form, np.uint8)
        scales = np.zeros(form, np.float32)
        assert quantizer(bits, symmetric)(stored.view(f"u{dtype.itemsize}"), shift, codes, scales, zeros)

        np.testing.assert_array_equal(codes, expected.packed.transpose(1, 0, 2))
        np.testing.assert_array_equal(scales.view(np.uint32), np.ascontiguousarray(expected.scales.T).view(np.uint32))
        if expected.zeros is not None:
            np.testing.assert_array_equal(zeros, expected.zeros.T)


@pytest.mark.parametrize("name", ["int8", "int4", "int4 symmetric", "int2"])
def test_large_models_become_the_same_as_small_ones(
    source: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite(source, tmp_path / "small.onnx", SCHEMES[name]())
    monkeypatch.setattr(engine, "COMPILED", 1)
    rewrite(source, tmp_path / "large.onnx", SCHEMES[name]())

    small, large = tensors(tmp_path / "small.onnx"), tensors(tmp_path / "large.onnx")
    assert small.keys() == large.keys()
    assert all(np.array_equal(small[name], large[name]) for name in small)


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("name", ["int4", "bf16", "int8 dynamic"])
def test_files_that_pass_the_cache_by_have_the_same_bytes(
    name: str, is_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("Gemm", ["h", "b"], ["y"], transB=1)]
    weights = {"a": matrix(1000, 1100), "b": matrix(900, 1100)}
    source = model(tmp_path / "source", nodes, weights, 1000, 900, external=True)
    monkeypatch.setattr(output, "_LARGEST_INLINE", 0)
    monkeypatch.setattr(engine, "COMPILED", 1)
    rewrite(source, tmp_path / "cached.onnx", SCHEMES[name]())
    opened = os.open

    def open_or_not(path: Path, flags: int, *mode: int) -> int:
        if flags & os.O_DIRECT and not is_there:
            raise OSError(errno.EINVAL, "Invalid argument")
        return opened(path, flags, *mode)

    monkeypatch.setattr(direct.os, "open", open_or_not)
    monkeypatch.setattr(direct, "_SMALLEST", 4096)
    monkeypatch.setattr(output, "_LONG", 0)
    rewrite(source, tmp_path / "past.onnx", SCHEMES[name]())

    assert (tmp_path / "past.onnx.data").read_bytes() == (tmp_path / "cached.onnx.data").read_bytes()


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_answers_nearly_as_the_float_model_does(source: Path, tmp_path: Path, name: str) -> None:
    rows = matrix(9, 70)
    expected = answer(source, rows)

    done = rewrite(source, tmp_path / "made.onnx", SCHEMES[name]())

    found = answer(tmp_path / "made.onnx", rows)
    noise = float(np.square(found - expected).mean() / np.square(expected).mean())
    assert done.changed == ("a", "b", "c")
    assert done.left == ()
    assert noise < (0.85 if name == "int2" else 0.05)


@pytest.mark.parametrize("name", SCHEMES)
def test_the_number_of_threads_changes_no_byte(source: Path, tmp_path: Path, name: str) -> None:
    for threads in (1, 4):
        rewrite(source, tmp_path / f"{threads}.onnx", SCHEMES[name](), threads)

    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "4.onnx").read_bytes()


def test_dynamic_int8_has_the_weights_of_onnx_runtimes_own(source: Path, tmp_path: Path) -> None:
    rewrite(source, tmp_path / "ours.onnx", DynamicInt8())
    quantize_dynamic(
        source,
        tmp_path / "own.onnx",
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
    )

    ours, theirs = tensors(tmp_path / "ours.onnx"), tensors(tmp_path / "own.onnx")
    for name in ("a", "b", "c"):
        codes = next(
            value for key, value in theirs.items() if key.startswith(f"{name}_") and key.endswith("_quantized")
        )
        scales = next(value for key, value in theirs.items() if key.startswith(f"{name}_") and key.endswith("_scale"))
        np.testing.assert_array_equal(ours[f"trimtab0.{name}_q"], codes)
        np.testing.assert_array_equal(ours[f"trimtab0.{name}_scales"], scales)


def test_a_value_half_way_between_two_codes_of_int8_is_rounded_as_a_division_rounds_it() -> None:
    values = np.array([[7 * 64], [6.5 * 7]], np.float32)  # the inverse of 7 as float32 is a little too large

    codes = quantize_columns(values, column_scales(values.max(0)))

    np.testing.assert_array_equal(codes, [[64], [6]])


def test_a_weight_that_something_else_reads_is_left_alone(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "w"], ["y"])]
    source = model(tmp_path / "source", nodes, {"w": matrix(32, 32)}, 32, 32, external=True)

    done = rewrite(source, tmp_path / "made.onnx", DynamicInt8())

    assert (done.changed, done.left) == ((), ("w",))
    rows = matrix(32, 32)
    np.testing.assert_array_equal(answer(tmp_path / "made.onnx", rows), answer(source, rows))


@pytest.mark.parametrize("told", [True, False], ids=["with lengths", "without lengths"])
def test_what_lies_beside_the_graph_and_is_no_matrix_is_carried_over(tmp_path: Path, told: bool) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "row"], ["t"]),
        helper.make_node("Add", ["x", "t"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    weights = {"table": matrix(3, 32), "row": np.array([1]), "w": matrix(32, 32)}
    source = model(tmp_path / "source", nodes, weights, 32, 32, external=True)
    if not told:
        graph = onnx.load(source, load_external_data=False)
        for tensor in graph.graph.initializer:
            del tensor.external_data[[item.key for item in tensor.external_data].index("length")]
        onnx.save(graph, source)
    rows = matrix(5, 32)

    rewrite(source, tmp_path / "made.onnx", Blockwise(8, 16, False))

    assert np.abs(answer(tmp_path / "made.onnx", rows) - answer(source, rows)).max() < 0.5


def test_int8_does_not_overflow_on_cpus_that_add_products_in_16_bits(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    source = model(tmp_path / "source", nodes, {"w": np.ones((64, 64), np.float32)}, 64, 64, external=False)
    rows = np.full((4, 64), 3, np.float32)  # the largest codes on both sides: every pair of products adds up

    rewrite(source, tmp_path / "made.onnx", DynamicInt8())

    np.testing.assert_allclose(answer(tmp_path / "made.onnx", rows), answer(source, rows), rtol=0.01)


def test_names_that_the_graph_has_already_are_not_taken(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Mul", ["h", "w_scales"], ["trimtab0.h"]),
        helper.make_node("Add", ["trimtab0.h", "h_scale"], ["y"]),
    ]
    weights = {"w": matrix(32, 32), "w_scales": np.float32([100]), "h_scale": matrix(32)}
    source = model(tmp_path / "source", nodes, weights, 32, 32, external=False)
    rows = matrix(5, 32)

    rewrite(source, tmp_path / "made.onnx", DynamicInt8())

    expected = answer(source, rows)
    assert np.abs(answer(tmp_path / "made.onnx", rows) - expected).max() < 0.1 * np.abs(expected).max()


def test_a_node_whose_first_output_nobody_wants_stays(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Dropout", ["x"], ["", "kept"]),
        helper.make_node("Dropout", ["x"], ["", "also"]),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Cast", ["also"], ["a"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["kept"], ["k"], to=TensorProto.FLOAT),
        helper.make_node("Sum", ["h", "a", "k"], ["y"]),
    ]
    source = model(tmp_path / "source", nodes, {"w": matrix(32, 32)}, 32, 32, external=False)

    rewrite(source, tmp_path / "made.onnx", DynamicInt8())

    kinds = [node.op_type for node in onnx.load(tmp_path / "made.onnx").graph.node]
    assert kinds.count("Dropout") == 2


@pytest.mark.parametrize(("name", "needed"), [("int8 dynamic", 11), ("bf16", 13), ("fp8e4m3", 19), ("fp8e5m2", 19)])
def test_a_graph_of_an_old_opset_is_refused_with_the_one_that_it_needs(tmp_path: Path, name: str, needed: int) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    source = model(tmp_path / "source", nodes, {"w": matrix(32, 32)}, 32, 32, external=False)
    graph = onnx.load(source)
    graph.opset_import[0].version = needed - 1
    onnx.save(graph, source)

    with pytest.raises(PassFailed, match=f"needs opset {needed} and the graph has {needed - 1}"):
        rewrite(source, tmp_path / "made.onnx", SCHEMES[name]())


def test_a_branch_that_keeps_a_tensor_beside_the_graph_is_refused(tmp_path: Path) -> None:
    value = TensorProto(name="v", data_type=TensorProto.FLOAT, dims=[32], data_location=TensorProto.EXTERNAL)
    value.external_data.add(key="location", value="weights.bin")
    nodes = [helper.make_node("Constant", [], ["c"], value=value), helper.make_node("MatMul", ["x", "w"], ["y"])]
    source = model(tmp_path / "source", nodes[1:], {"w": matrix(32, 32)}, 32, 32, external=True)
    graph = onnx.load(source, load_external_data=False)
    graph.graph.node.insert(0, nodes[0])
    onnx.save(graph, source)

    with pytest.raises(PassFailed, match="keeps tensors beside the graph"):
        rewrite(source, tmp_path / "made.onnx", DynamicInt8())


def test_a_model_in_float16_is_left_alone(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["h", "w"], ["z"]),
        helper.make_node("Cast", ["z"], ["y"], to=TensorProto.FLOAT),
    ]
    source = model(tmp_path / "source", nodes, {"w": matrix(32, 32).astype(np.float16)}, 32, 32, external=True)

    assert rewrite(source, tmp_path / "made.onnx", DynamicInt8()).changed == ()
    answer(tmp_path / "made.onnx", matrix(3, 32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize(("name", "compiled_from"), [("int4", engine.COMPILED), ("int4", 1), ("fp8e4m3", 1)])
def test_a_weight_that_is_no_number_is_refused_by_the_name_of_its_tensor(
    tmp_path: Path, value: float, external: bool, name: str, compiled_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "COMPILED", compiled_from)
    weight = matrix(32, 32)
    weight[3, 5] = value
    source = model(
        tmp_path / "source", [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight}, 32, 32, external
    )

    with pytest.raises(InvalidPackage, match="tensor w holds NaN or infinity"):
        rewrite(source, tmp_path / "made.onnx", SCHEMES[name]())


def test_a_file_that_ends_too_early_is_refused_by_its_name(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    source = model(tmp_path / "source", nodes, {"w": matrix(64, 64)}, 64, 64, external=True)
    weights = source.parent / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-100])

    with pytest.raises(InvalidPackage, match=r"weights.bin ends within tensor w"):
        rewrite(source, tmp_path / "made.onnx", DynamicInt8())


_PEAK = """
import sys
from pathlib import Path
from trimtab_optimizer.streaming.rewrite import rewrite
from trimtab_optimizer.streaming.schemes import Blockwise, DynamicInt8, Float8
SCHEMES = {"int8": DynamicInt8(), "int4": Blockwise(4, 32, False), "fp8": Float8(17)}
rewrite(Path(sys.argv[1]), Path(sys.argv[2]), SCHEMES[sys.argv[3]])
status = Path("/proc/self/status").read_text()
print(int(status.partition("VmHWM:")[2].split()[0]) // 1024)
"""


@pytest.mark.parametrize("dtype", ["int8", "int4", "fp8"])
def test_memory_does_not_grow_with_the_model(tmp_path: Path, dtype: str) -> None:
    peaks = []
    for layers in (32, 64):
        weights = {f"w{number}": matrix(1024, 1024) for number in range(layers)}
        nodes = [
            helper.make_node("MatMul", [f"h{number}" if number else "x", f"w{number}"], [f"h{number + 1}"])
            for number in range(layers)
        ]
        nodes[-1].output[0] = "y"
        source = model(tmp_path / str(layers), nodes, weights, 1024, 1024, external=True)
        command = [sys.executable, "-c", _PEAK, str(source), str(tmp_path / f"{layers}.onnx"), dtype]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))

    assert peaks[1] - peaks[0] < 30, peaks  # MiB, of 128 MiB more weights
