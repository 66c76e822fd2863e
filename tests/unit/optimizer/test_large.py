"""Modules too large to be held: exported without values, into a graph that refers to the safetensors file."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from trimtab_api.errors import InvalidPackage, PassFailed
from trimtab_api.spec import Calibration, Convert, OptimizationPass, Quantize
from trimtab_optimizer import memory
from trimtab_optimizer.importers import empty
from trimtab_optimizer.importers.empty import check_empty
from trimtab_optimizer.package import Model, load_package
from trimtab_optimizer.passes.contract import Workplace
from trimtab_optimizer.passes.convert import convert
from trimtab_optimizer.passes.quantize import quantize
from trimtab_optimizer.predict import predictor_of
from trimtab_optimizer.tensors import example_inputs
from trimtab_testing.measures import accuracy

CONVERT = OptimizationPass(convert=Convert())

TIED = (
    "import torch\nfrom torch import nn\n\n\nclass Tied(nn.Module):\n    def __init__(self):\n"
    "        super().__init__()\n        w = nn.Parameter(torch.zeros(128, 128))\n"
    "        self.table = nn.Embedding(64, 128)\n        self.head = nn.Linear(128, 64, bias=False)\n"
    "        self.one, self.other = nn.Linear(128, 128), nn.Linear(128, 128)\n"
    "        self.one.weight = w\n        self.other.weight = w\n        self.head.weight = self.table.weight\n"
    "        self.register_buffer('places', torch.arange(128).float() / 128, persistent=False)\n\n"
    "    def forward(self, ids):\n        x = self.table(ids) + self.places\n"
    "        return self.head(self.other(torch.relu(self.one(x))))\n\n\ndef build():\n    return Tied()\n"
)
TIED_SIGNATURE: dict[str, Any] = {
    "inputs": [{"name": "ids", "datatype": "INT64", "shape": [-1, -1]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, -1, 64]}],
}


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a module of any size be one that is too large."""
    monkeypatch.setattr(empty, "LARGEST_HELD", 0)


def exported(source: Model, work: Callable[..., Workplace], name: str = "large") -> Model:
    """Return a module as ONNX."""
    return convert(CONVERT, source, work(name)).model


@pytest.fixture
def tied(linear_package: Callable[..., Path]) -> Model:
    """A module with two pairs of tied weights, stored in bfloat16, and a buffer that is in no file."""
    torch.manual_seed(0)
    weights = {
        "table.weight": torch.randn(64, 128).bfloat16(),
        "one.weight": (torch.randn(128, 128) / 8).bfloat16(),
        "one.bias": torch.randn(128),
        "other.bias": torch.randn(128),
    }
    return load_package(linear_package(code=TIED, weights=weights, **TIED_SIGNATURE))


@pytest.mark.parametrize("example", ["digits_build", "attention_build"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_module_answers_as_the_one_that_was_held(
    example: str, dtype: torch.dtype, request: pytest.FixtureRequest, work: Callable[..., Workplace], tmp_path: Path
) -> None:
    source = load_package(request.getfixturevalue(example) / "model")
    folder = tmp_path / "stored"
    folder.mkdir()
    for file in source.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    held = load_file(source.weights)
    save_file(
        {name: value.to(dtype) if value.is_floating_point() else value for name, value in held.items()},
        folder / source.weights.name,
    )
    stored = load_package(folder)
    rows = example_inputs(source.package.inputs, 7, seed=3)

    made = exported(stored, work)

    expected = predictor_of(stored, False).predict(rows)
    for wanted, found in zip(expected, predictor_of(made, False).predict(rows), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_weights_are_not_copied_and_the_graph_is_small(tied: Model, work: Callable[..., Workplace]) -> None:
    made = exported(tied, work)

    beside = made.folder / "model.safetensors"
    assert beside.samefile(tied.weights)
    assert made.weights.stat().st_size < beside.stat().st_size


def test_tied_weights_and_buffers_that_no_file_has_are_as_in_the_module(
    tied: Model, work: Callable[..., Workplace]
) -> None:
    rows = {"ids": np.arange(60).reshape(4, 15) % 64}

    made = exported(tied, work)

    expected = predictor_of(tied, False).predict(rows)[0]
    np.testing.assert_allclose(predictor_of(made, False).predict(rows)[0], expected, atol=1e-4)


@pytest.mark.parametrize(("dtype", "matrices"), [("int8", 2), ("int4", 2), ("fp8e4m3", 1)])
def test_what_is_stored_in_bfloat16_and_turned_is_quantized_and_a_table_too_where_that_is_faster(
    tied: Model, work: Callable[..., Workplace], dtype: str, matrices: int
) -> None:
    rows = {"ids": np.arange(60).reshape(4, 15) % 64}
    made = exported(tied, work)

    done = quantize(OptimizationPass(quantize=Quantize(dtype=dtype)), made, work("quantized"))

    assert done.notes["matrices"] == matrices  # that of two layers, and the table's own product
    expected = predictor_of(tied, False).predict(rows)[0]
    found = predictor_of(done.model, False).predict(rows)[0]
    assert np.square(found - expected).mean() < 0.03 * np.square(expected).mean()
    kinds = {node.op_type for node in onnx.load(done.model.weights).graph.node}
    assert "Gather" in kinds  # the table is still looked up, as it was stored


def test_int4_of_a_large_module_keeps_the_accuracy(source: Model, test: Any, work: Callable[..., Workplace]) -> None:
    made = quantize(OptimizationPass(quantize=Quantize(dtype="int4")), exported(source, work), work("int4")).model

    assert accuracy(made, test) > accuracy(source, test) - 0.01


def test_static_int8_reads_weights_that_the_source_has_too(
    source: Model, test: Any, train: Any, work: Callable[..., Workplace]
) -> None:
    options = Quantize(mode="static", calibration=Calibration(uri="oci://a/b:v1"))

    made = quantize(OptimizationPass(quantize=options), exported(source, work), work("static", data=train)).model

    assert accuracy(made, test) > accuracy(source, test) - 0.01


def test_the_job_makes_a_model_that_it_cannot_run_and_says_why_it_was_not_measured(
    digits: dict[str, str],
    run_job: Callable[..., Any],
    report_of: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "memory_limit", lambda: memory.LIBRARIES + 1000)
    passes = [{"convert": {}}, {"quantize": {"dtype": "int4"}}]

    answer = run_job({"source": {"uri": digits["model"]}, "passes": passes, "evaluationData": digits["test"]})

    report = report_of(answer)
    accuracies = [item for item in answer.result.metrics if item.name == "accuracy"]
    assert [item.value for item in accuracies] == [None]  # which no gate lets through
    assert "limits.memory" in report["passes"][0]["notes"]["notCompared"]
    assert "running it takes about" in next(m["note"] for m in report["metrics"] if m["name"] == "accuracy")
    assert report["passes"][1]["sizeBytes"] < 0.3 * report["passes"][0]["sizeBytes"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda held: held.pop("bias"), "missing: bias"),
        (lambda held: held.update(more=torch.zeros(1)), "unexpected: more"),
        (lambda held: held.update(bias=torch.zeros(5)), "of another shape: bias"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    linear_package: Callable[..., Path], change: Callable[[Any], None], complaint: str
) -> None:
    folder = linear_package()
    held = load_file(folder / "model.safetensors")
    change(held)
    save_file(held, folder / "model.safetensors")

    with pytest.raises(InvalidPackage, match=complaint):
        check_empty(load_package(folder))


def test_outputs_that_are_not_those_of_model_yaml_are_refused_without_a_value(
    linear_package: Callable[..., Path],
) -> None:
    folder = linear_package(outputs=[{"name": "y", "datatype": "FP32", "shape": [-1, 5]}])

    with pytest.raises(InvalidPackage, match=r"output y has the shape \['rows', 3\]"):
        check_empty(load_package(folder))


def test_a_buffer_that_is_computed_from_weights_is_a_failed_pass_that_names_it(
    linear_package: Callable[..., Path], work: Callable[..., Workplace]
) -> None:
    code = (
        "from torch import nn\n\n\nclass Scaled(nn.Linear):\n    def __init__(self):\n        super().__init__(4, 3)\n"
        "        self.register_buffer('norm', self.weight.detach().norm(), persistent=False)\n\n"
        "    def forward(self, x):\n        return super().forward(x) / self.norm\n\n\n"
        "def build():\n    return Scaled()\n"
    )

    with pytest.raises(PassFailed, match="the buffer norm is computed from weights"):
        exported(load_package(linear_package(code=code)), work)


@pytest.mark.parametrize(
    "header", [b"\x10" + b"\0" * 7 + b'{"weight": 12345}', b"\x02" + b"\0" * 7 + b"[]", b"\xff" * 8 + b"{}"]
)
def test_a_header_that_is_none_is_refused(linear_package: Callable[..., Path], header: bytes) -> None:
    folder = linear_package()
    (folder / "model.safetensors").write_bytes(header)

    with pytest.raises(InvalidPackage, match=r"model\.safetensors is not a safetensors file"):
        check_empty(load_package(folder))


WIDE = "from torch import nn\n\n\ndef build():\n    return nn.Sequential(*(nn.Linear(4096, 4096) for _ in range(9)))\n"
CHILD = """
import sys
from pathlib import Path
from trimtab_api.spec import Calibration, Convert, OptimizationPass, Quantize
from trimtab_optimizer import memory
from trimtab_optimizer.importers import empty
from trimtab_optimizer.importers.empty import check_empty
from trimtab_optimizer.package import load_package
from trimtab_optimizer.capturing.referring import export_referring
from trimtab_optimizer.streaming.rewrite import rewrite
from trimtab_optimizer.streaming.schemes import Blockwise

peak = lambda: int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) >> 10
source, target = load_package(Path(sys.argv[1])), Path(sys.argv[2])
before = peak()
check_empty(source)
export_referring(source, target, 0)
rewrite(target / "model.onnx", target / "int4.onnx", Blockwise(4, 32, False))
print(before, peak())
"""


def test_memory_does_not_grow_with_the_module(linear_package: Callable[..., Path], tmp_path: Path) -> None:
    shape = {"shape": [-1, 4096], "datatype": "FP32"}
    package = linear_package(code=WIDE, weights={}, inputs=[{"name": "x", **shape}], outputs=[{"name": "y", **shape}])
    names = [f"{number}.{part}" for number in range(9) for part in ("weight", "bias")]
    sizes = {name: [4096, 4096] if name.endswith("weight") else [4096] for name in names}
    header: dict[str, Any] = {}
    end = 0
    for name, size in sizes.items():
        header[name] = {"dtype": "F32", "shape": size, "data_offsets": [end, end + 4 * int(np.prod(size))]}
        end += 4 * int(np.prod(size))
    text = json.dumps(header).encode()
    with (package / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)  # zeros, which take no place on the disk
    (tmp_path / "target").mkdir()

    command = [sys.executable, "-c", CHILD, package, tmp_path / "target"]
    before, after = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())

    assert end > 500 << 20
    assert after - before < 300  # MiB; what the exporter imports is most of it
