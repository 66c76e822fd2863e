"""prune and clip: what counts least goes, the rest predicts as before, and an error says what cannot go."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch import nn

from trimtab_api.errors import InvalidData, InvalidPackage, PassFailed
from trimtab_api.package import STRUCTURE_FILE
from trimtab_api.spec import Clip, Convert, FineTune, OptimizationPass, Prune, Quantize
from trimtab_optimizer.data import Dataset, load_data
from trimtab_optimizer.evaluate import measure
from trimtab_optimizer.importers.pytorch import load_module
from trimtab_optimizer.package import Model, load_package
from trimtab_optimizer.passes.clip import clip
from trimtab_optimizer.passes.contract import Workplace
from trimtab_optimizer.passes.convert import convert
from trimtab_optimizer.passes.prune import prune
from trimtab_optimizer.passes.quantize import quantize
from trimtab_optimizer.streaming.reweigh import store_sparse
from trimtab_optimizer.training import rounds
from trimtab_testing.graphs import matrix
from trimtab_testing.graphs import model as graph
from trimtab_testing.measures import accuracy

Work = Callable[..., Workplace]

HEADS = """
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_heads, self.head_dim = 4, 8
        self.query, self.key, self.value = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.output = nn.Linear(32, 32)

    def forward(self, x):
        split = lambda y: y.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
        found = scaled_dot_product_attention(split(self.query(x)), split(self.key(x)), split(self.value(x)))
        return self.output(found.transpose(1, 2).flatten(2))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.head = Attention(), nn.Linear(32, 3)

    def forward(self, x):
        tokens = x.unsqueeze(1) * torch.ones(1, 4, 32)
        return self.head((tokens + self.attention(tokens)).mean(1))


def build():
    return Network()
"""


RESIDENT = """
import sys
from pathlib import Path
from trimtab_runtime.model.session import load_model
model = load_model(Path(sys.argv[1]), threads=1)
print(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])
"""


def pruning(**options: object) -> OptimizationPass:
    return OptimizationPass(prune=Prune.parse({"amount": 0.5, **options}))


def fine_tuned(epochs: int = 4) -> dict[str, object]:
    return FineTune(data="oci://a/b", epochs=epochs, learning_rate=0.002).to_dict()


def onnx_of(model: Model, work: Work, name: str = "onnx") -> Model:
    return convert(OptimizationPass(convert=Convert()), model, work(name)).model


@pytest.mark.parametrize(("method", "drop"), [("l1", 0.015), ("l2", 0.015), ("random", 0.03)])
def test_structured_pruning_gives_smaller_tensors_that_only_the_new_package_can_load(
    source: Model, train: Dataset, test: Dataset, work: Work, method: str, drop: float
) -> None:
    done = prune(pruning(method=method, fineTune=fine_tuned()), source, work("pruned", train))

    widths = {name: tuple(value.shape) for name, value in load_module(done.model, False).state_dict().items()}
    assert widths["3.weight"] == (16, 8, 3, 3)
    assert done.model.size_bytes() < 0.3 * source.size_bytes()
    assert accuracy(done.model, test) >= accuracy(source, test) - drop
    assert done.notes["leftAlone"] == {"9": "it gives an output of the model"}


def test_a_pruned_package_is_converted_and_quantized_like_any_other(
    source: Model, train: Dataset, test: Dataset, work: Work
) -> None:
    pruned = prune(pruning(iterations=3, fineTune=fine_tuned(2)), source, work("pruned", train)).model
    made = onnx_of(pruned, work)
    small = quantize(OptimizationPass(quantize=Quantize(mode="dynamic")), made, work("int8")).model

    assert small.size_bytes() < 0.15 * source.size_bytes()
    assert accuracy(small, test) >= accuracy(source, test) - 0.015


def test_layers_that_are_to_be_ignored_keep_their_size(source: Model, work: Work) -> None:
    done = prune(pruning(ignoredLayers=["3"]), source, work())

    shapes = {name: tuple(value.shape) for name, value in load_module(done.model, False).state_dict().items()}
    assert shapes["3.weight"] == (32, 8, 3, 3)
    assert shapes["7.weight"] == (64, 512)


def test_layers_written_for_their_size_are_left_alone_with_the_reason(attention_build: Path, work: Work) -> None:
    source = load_package(attention_build / "model")

    done = prune(pruning(), source, work())

    assert done.model.size_bytes() < 0.5 * source.size_bytes()
    assert done.notes["leftAlone"] == {
        "head": "it gives an output of the model",
        "blocks.0.query_key_value": "the module is written for its size (RuntimeError)",
        "blocks.1.query_key_value": "the module is written for its size (RuntimeError)",
    }
    assert accuracy(done.model, load_data(attention_build / "data-test", source.package, evaluation=True)) > 0.5


def test_a_module_that_looks_at_values_on_its_way_is_pruned_too(
    linear_package: Callable[..., Path], work: Work
) -> None:
    code = """
from torch import nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 64), nn.Linear(64, 3)

    def forward(self, x):
        return self.second(self.first(x) if bool((x == x).all()) else self.first(-x))


def build():
    return Network()
"""
    torch.manual_seed(0)
    layers = {"first": nn.Linear(4, 64), "second": nn.Linear(64, 3)}
    weights = nn.ModuleDict(layers).state_dict()

    done = prune(pruning(), load_package(linear_package(code=code, weights=dict(weights))), work())

    assert load_module(done.model, False).state_dict()["first.weight"].shape == (32, 4)
    assert done.notes["leftAlone"] == {"second": "it gives an output of the model"}


@pytest.fixture
def heads_package(linear_package: Callable[..., Path]) -> Model:
    scope: dict[str, Callable[[], nn.Module]] = {}
    exec(HEADS, scope)
    torch.manual_seed(0)
    weights = {name: value.contiguous() for name, value in scope["build"]().state_dict().items()}
    inputs = [{"name": "x", "datatype": "FP32", "shape": [-1, 32]}]
    return load_package(linear_package(code=HEADS, weights=weights, inputs=inputs))


def test_heads_of_attention_go_as_a_whole(heads_package: Model, work: Work) -> None:
    done = prune(pruning(attentionHeads=True), heads_package, work())

    module = load_module(done.model, False)
    assert done.notes["heads"] == {"attention": 2}
    assert module.get_submodule("attention").num_heads == 2
    assert module.state_dict()["attention.query.weight"].shape == (16, 32)
    assert onnx_of(done.model, work).size_bytes() < onnx_of(heads_package, work, "whole").size_bytes()


def test_heads_stay_unless_they_are_asked_for(heads_package: Model, work: Work) -> None:
    with pytest.raises(PassFailed, match=r"attention\.value: the module is written for its size"):
        prune(pruning(), heads_package, work())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"ignoredLayers": ["conv9"]}, "no layer `conv9`"),
        ({"amount": 1.5}, "between 0 and 1"),
        ({"amount": 0.01, "roundTo": 128}, "raise amount, or lower roundTo"),
        ({"structure": "unstructured", "ignoredLayers": ["conv9"]}, "no layer `conv9`"),
    ],
)
def test_what_cannot_be_pruned_is_refused_with_a_reason(
    source: Model, work: Work, options: dict[str, object], told: str
) -> None:
    with pytest.raises(PassFailed, match=told):
        prune(pruning(**options), source, work())


@pytest.mark.parametrize(
    ("options", "steps"), [({"iterations": 3}, (1, 25, 3, 20)), ({"structure": "unstructured"}, (1, 17, 2))]
)
def test_a_job_killed_at_any_step_of_fine_tuning_goes_on_to_the_same_bytes(
    options: dict[str, object],
    steps: tuple[int, ...],
    source: Model,
    train: Dataset,
    work: Work,
    checkpoints: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    item = pruning(fineTune=fine_tuned(1), **options)
    whole = prune(item, source, work("whole", train))
    monkeypatch.setattr(rounds, "CHECKPOINT_SECONDS", 0.0)
    for number, count in enumerate(steps):
        checkpoints.saved, checkpoints.dies_after = 0, count
        with pytest.raises(KeyboardInterrupt):
            prune(item, source, work(f"killed{number}", train))
        torch.manual_seed(99)  # another process would not have the generator where this one left it
    checkpoints.dies_after = None

    done = prune(item, source, work("last", train))

    assert done.model.weights.read_bytes() == whole.model.weights.read_bytes()
    assert done.notes["losses"] == whole.notes["losses"]
    assert 0 < checkpoints.saved < sum(steps)


def test_fine_tuning_needs_labels(source: Model, train: Dataset, work: Work) -> None:
    with pytest.raises(InvalidData, match="add it, or distill"):
        prune(pruning(fineTune=fine_tuned(1)), source, work("out", replace(train, labels=None)))


def test_a_structure_that_does_not_fit_the_code_is_refused(source: Model, work: Work) -> None:
    made = prune(pruning(), source, work()).model
    (made.folder / STRUCTURE_FILE).write_text(json.dumps({"sizes": {"99": {"in_features": 4}}}))

    with pytest.raises(InvalidPackage, match="which the entrypoint does not build"):
        load_module(made, False)


@pytest.mark.parametrize("amount", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_unstructured_pruning_zeroes_exactly_the_smallest_weights(
    source: Model, work: Work, amount: float, scope: str
) -> None:
    made = prune(pruning(structure="unstructured", amount=amount, scope=scope), source, work()).model

    before, after = load_file(source.weights), load_file(made.weights)
    names = [name for name in before if before[name].ndim > 1]
    groups = [names] if scope == "global" else [[name] for name in names]
    for group in groups:
        old = np.concatenate([before[name].ravel() for name in group])
        new = np.concatenate([after[name].ravel() for name in group])
        assert (new == 0).sum() == round(amount * old.size)
        assert np.abs(old[new == 0]).max() <= np.abs(old[new != 0]).min()
        assert np.array_equal(old[new != 0], new[new != 0])


def test_weights_taken_by_chance_are_the_same_each_time_and_others_for_another_seed(source: Model, work: Work) -> None:
    item = pruning(structure="unstructured", method="random")
    files = [
        prune(item, source, work(name, seed=seed)).model.weights.read_bytes()
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    ]

    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("amount", [0.5, 0.9])
def test_zeros_are_stored_in_a_bit_and_predict_the_same(
    source: Model, test: Dataset, work: Work, amount: float
) -> None:
    item = pruning(structure="unstructured", amount=amount)
    dense = onnx_of(source, work, "dense")
    late = prune(item, dense, work("late")).model
    early = onnx_of(prune(item, source, work("zeroed")).model, work, "early")

    for made in (late, early):
        assert made.size_bytes() < (1 - amount + 0.1) * dense.size_bytes()
        onnx.checker.check_model(str(made.weights), full_check=True)
    classes = [measure(made, test, False, 0).answers.classes for made in (late, early)]
    assert np.array_equal(*classes)


def test_sparse_weights_are_put_together_when_the_model_is_loaded_and_not_at_each_call(
    source: Model, work: Work, tmp_path: Path
) -> None:
    dense = onnx_of(source, work, "dense")
    sparse = prune(pruning(structure="unstructured"), dense, work("sparse")).model

    loaded = []
    for number, model in enumerate((dense, sparse)):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"loaded-{number}.onnx")
        onnxruntime.InferenceSession(str(model.weights), options)
        loaded.append([node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node])
    assert loaded[0] == loaded[1]


def test_a_served_sparse_model_holds_no_more_memory_than_a_dense_one(work: Work, tmp_path: Path) -> None:
    sizes = []
    for name, kept in (("dense", 1.0), ("sparse", 0.5)):
        folder = large_model(tmp_path / name, kept)
        if name == "sparse":
            assert store_sparse(folder / "model.onnx", work(name).scratch)
        done = subprocess.run([sys.executable, "-c", RESIDENT, folder], capture_output=True, text=True, check=True)
        sizes.append(int(done.stdout))
    assert sizes[1] < 1.3 * sizes[0]


def large_model(folder: Path, kept: float) -> Path:
    """Write two matrices of 16 MiB, of which some values are zero."""
    weights = {f"w{n}": matrix(2048, 2048) for n in range(2)}
    for values in weights.values():
        values[np.random.default_rng(0).random(values.shape) > kept] = 0
    nodes = [onnx.helper.make_node("MatMul", ["x", "w0"], ["h"]), onnx.helper.make_node("MatMul", ["h", "w1"], ["y"])]
    graph(folder, nodes, weights, 2048, 2048, external=False)
    package = {"name": "large", "format": "onnx", "inputs": [{"name": "x", "shape": [-1, 2048]}]}
    package["outputs"] = [{"name": "y", "shape": [-1, 2048]}]
    (folder / "model.yaml").write_text(json.dumps(package))
    return folder


def test_sparse_weights_can_be_quantized_and_keep_their_zeros(source: Model, test: Dataset, work: Work) -> None:
    sparse = prune(pruning(structure="unstructured"), onnx_of(source, work), work("sparse")).model
    small = quantize(OptimizationPass(quantize=Quantize(mode="dynamic")), sparse, work("int8")).model

    names = {tensor.name for tensor in onnx.load(small.weights).graph.initializer}
    assert not any(name.endswith("_mask") for name in names if "7.weight" in name)
    assert small.size_bytes() < 0.6 * sparse.size_bytes()
    assert abs(accuracy(small, test) - accuracy(sparse, test)) <= 0.01


def test_pruned_weights_stay_zero_while_the_others_are_fine_tuned(source: Model, train: Dataset, work: Work) -> None:
    item = pruning(structure="unstructured", amount=0.8, fineTune=fine_tuned(2))

    made = prune(item, source, work("out", train)).model

    before, after = load_file(source.weights), load_file(made.weights)
    weights = [name for name in after if after[name].ndim > 1]
    assert all(abs((after[name] == 0).mean() - 0.8) < 0.01 for name in weights)
    assert any((before[name] != after[name])[after[name] != 0].any() for name in weights)


def test_clipping_limits_each_layer_to_its_percentile(source: Model, work: Work) -> None:
    item = OptimizationPass(clip=Clip(percentile=95, ignored_layers=("9",)))
    before = load_file(source.weights)
    after = load_file(clip(item, source, work("module")).model.weights)

    for name in ("1.weight", "3.weight", "7.weight"):
        limit = np.sort(np.abs(before[name]).ravel())[round(before[name].size * 0.95)]
        assert np.array_equal(after[name], np.clip(before[name], -limit, limit))
    assert np.array_equal(before["9.weight"], after["9.weight"])
    converted = onnx_of(source, work)
    clipped = clip(item, converted, work("graph")).model
    assert clipped.size_bytes() == pytest.approx(converted.size_bytes(), rel=0.02)


def test_weights_that_are_no_numbers_are_refused_by_name(source: Model, work: Work, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(source.folder, broken)
    weights = {name: torch.from_numpy(value) for name, value in load_file(source.weights).items()}
    weights["7.weight"][0, 0] = float("nan")
    save_file(weights, broken / "model.safetensors")

    with pytest.raises(InvalidPackage, match=r"7\.weight holds NaN or infinity"):
        prune(pruning(structure="unstructured"), load_package(broken), work())
