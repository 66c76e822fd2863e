"""Static int8 of graphs too large to be loaded: calibrated layer by layer, in the memory of one segment."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import load_file, save_file

from trimtab_api.errors import InvalidData, PassFailed
from trimtab_api.spec import Calibration, Convert, OptimizationPass, Quantize
from trimtab_optimizer import memory
from trimtab_optimizer.data import Dataset, load_data
from trimtab_optimizer.importers import empty
from trimtab_optimizer.package import Model, load_package
from trimtab_optimizer.passes.contract import Workplace
from trimtab_optimizer.passes.convert import convert
from trimtab_optimizer.passes.quantize import quantize
from trimtab_optimizer.streaming.segments import Range, ranges_of
from trimtab_optimizer.streaming.static import scale_of
from trimtab_testing.graphs import chain, matrix, tensor_beside
from trimtab_testing.graphs import model as graph
from trimtab_testing.measures import accuracy

Work = Callable[..., Workplace]

STATIC = OptimizationPass(quantize=Quantize(mode="static", calibration=Calibration(uri="oci://a/b:v1")))


@pytest.fixture
def source(attention_build: Path) -> Model:
    """The attention model."""
    return load_package(attention_build / "model")


@pytest.fixture
def train(attention_build: Path, source: Model) -> Dataset:
    return load_data(attention_build / "data-train", source.package, evaluation=True)


@pytest.fixture
def test(attention_build: Path, source: Model) -> Dataset:
    return load_data(attention_build / "data-test", source.package, evaluation=True)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a model of any size be one that is too large."""
    monkeypatch.setattr(empty, "LARGEST_HELD", 0)


def exported(source: Model, work: Work, name: str = "onnx") -> Model:
    return convert(OptimizationPass(convert=Convert()), source, work(name)).model


@pytest.mark.parametrize("largest", [1, 20_000, 1 << 30])
def test_ranges_are_those_of_the_whole_graph_however_it_is_split(
    largest: int, source: Model, train: Dataset, work: Work, tmp_path: Path
) -> None:
    made = exported(source, work)
    whole = onnx.load(made.weights)
    names = [node.input[0] for node in whole.graph.node if node.op_type in ("MatMul", "Gemm")]
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in set(names))
    session = ort.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = [session.run(names, batch) for batch in train.batches(32, 100)]

    found = ranges_of(made.weights, set(names), train.batches(32, 100), tmp_path, largest)

    for place, name in enumerate(names):
        assert found[name].low == pytest.approx(min(batch[place].min() for batch in expected), abs=1e-4)
        assert found[name].high == pytest.approx(max(batch[place].max() for batch in expected), abs=1e-4)
    assert not [*tmp_path.glob("*.npy")]


def test_a_large_model_is_as_accurate_and_as_integer_as_one_that_is_held(
    source: Model, train: Dataset, test: Dataset, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = quantize(STATIC, exported(source, work), work("held", data=train)).model
    monkeypatch.setattr(empty, "LARGEST_HELD", 0)
    made = quantize(STATIC, exported(source, work, "large"), work("static", data=train))

    assert accuracy(made.model, test) >= accuracy(held, test) - 0.01
    assert made.model.size_bytes() < 0.4 * source.size_bytes()
    assert made.notes["operators"] == {"DequantizeLinear": 2 * made.notes["matrices"]}  # what is read, and the weight


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_16_bits_are_calibrated_too(
    dtype: torch.dtype, source: Model, train: Dataset, test: Dataset, work: Work, tmp_path: Path
) -> None:
    folder = tmp_path / "stored"
    folder.mkdir()
    for file in source.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = {name: value.to(dtype) for name, value in load_file(source.weights).items()}
    save_file(weights, folder / source.weights.name)

    made = quantize(STATIC, exported(load_package(folder), work), work("static", data=train)).model

    assert accuracy(made, test) >= accuracy(source, test) - 0.02


def test_a_graph_that_cannot_be_held_is_measured_by_its_answers_and_not_timed(
    attention: dict[str, str], run_job: Callable[..., Any], source: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = {"source": {"uri": attention["model"]}, "passes": [{"convert": {}}]}
    held = run_job({**plan, "evaluationData": attention["test"], "seed": 1})
    monkeypatch.setattr(empty, "LARGEST_HELD", 0)
    monkeypatch.setattr(memory, "LARGEST", 1000)
    monkeypatch.setattr(memory, "memory_limit", lambda: memory.LIBRARIES + source.size_bytes())

    made = run_job({**plan, "evaluationData": attention["test"], "seed": 2})

    accuracies, latencies = (
        [next(item.value for item in answer.result.metrics if item.name == name) for answer in (held, made)]
        for name in ("accuracy", "latencyP95Ms")
    )
    assert accuracies[1] == accuracies[0]
    assert latencies[1] is None


def branching(folder: Path, last: str = "Neg") -> Path:
    """Write a graph with a branch that reads a value from outside it, between two products."""
    inner = helper.make_node(last, ["turned"], ["branched"])
    result = helper.make_tensor_value_info("branched", TensorProto.FLOAT, None)
    branch = helper.make_graph([inner], "branch", [], [result])
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["turned"]),
        helper.make_node("Cast", ["chooser"], ["condition"], to=TensorProto.BOOL),
        helper.make_node("If", ["condition"], ["chosen"], then_branch=branch, else_branch=branch),
        helper.make_node("MatMul", ["chosen", "second"], ["y"]),
    ]
    weights = {"first": matrix(16, 16), "second": matrix(16, 4), "chooser": np.float32(1)}
    return graph(folder, nodes, weights, 16, 4, external=True)


def test_a_branch_reads_values_of_earlier_segments(tmp_path: Path) -> None:
    file = branching(tmp_path / "model")
    rows = matrix(8, 16)
    weights = {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(file).graph.initializer}

    found = ranges_of(file, {"chosen"}, [{"x": rows}], tmp_path, largest=1)

    expected = -(rows @ weights["first"])
    assert found["chosen"].low == pytest.approx(expected.min(), abs=1e-4)
    assert found["chosen"].high == pytest.approx(expected.max(), abs=1e-4)


def test_values_that_are_no_numbers_are_refused_by_name(tmp_path: Path) -> None:
    file = branching(tmp_path / "model", last="Log")

    with pytest.raises(InvalidData, match="chosen is no number"):
        ranges_of(file, {"chosen"}, [{"x": matrix(8, 16)}], tmp_path, largest=1)


def test_a_graph_that_cannot_be_run_fails_with_what_to_do(tmp_path: Path) -> None:
    file = branching(tmp_path / "model")

    with pytest.raises(PassFailed, match="with mode: dynamic"):
        ranges_of(file, {"chosen"}, [{"x": matrix(8, 5)}], tmp_path, largest=1)


@pytest.mark.parametrize(
    ("values", "scale", "zero"),
    [(Range(-1.0, 254.0), 1.0, 1), (Range(2.0, 510.0), 2.0, 0), (Range(-255.0, -3.0), 1.0, 255), (Range(0, 0), 1.0, 0)],
)
def test_zero_has_a_code_of_its_own(values: Range, scale: float, zero: int) -> None:
    assert scale_of(values) == (scale, zero)


WIDE = "from torch import nn\n\n\ndef build():\n    return nn.Sequential(*(nn.Linear(4096, 4096) for _ in range(9)))\n"
CHILD = """
import sys
from pathlib import Path
import numpy as np
from trimtab_optimizer.streaming.rewrite import rewrite
from trimtab_optimizer.streaming.segments import ranges_of
from trimtab_optimizer.streaming.static import StaticInt8

peak = lambda: int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) >> 10
file, scratch = Path(sys.argv[1]), Path(sys.argv[2])
before = peak()
rows = np.ones((4, 4096), np.float32)
names = {"x", *(f"h{number}" for number in range(1, 9))}
ranges = ranges_of(file, names, [{"x": rows}], scratch, largest=64 << 20)
rewrite(file, scratch / "int8.onnx", StaticInt8(ranges))
print(before, peak())
"""


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    size = 4096 * 4096 * 4
    file = chain(tmp_path / "model.onnx", [tensor_beside(f"w{n}", (4096, 4096), n * size) for n in range(9)])
    with (tmp_path / "weights.bin").open("wb") as weights:
        weights.truncate(9 * size)  # zeros, which take no place on the disk
    (tmp_path / "scratch").mkdir()

    command = [sys.executable, "-c", CHILD, file, tmp_path / "scratch"]
    before, after = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())

    assert 9 * size > 500 << 20
    assert after - before < 250  # MiB; a segment has 64
