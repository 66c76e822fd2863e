"""distill: a student learns from a teacher, goes on after a kill as if nothing had been, and says who does not fit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch import nn

from trimtab_api.errors import InvalidData, PassFailed
from trimtab_api.spec import Convert, Distill, OptimizationPass, Prune, Quantize
from trimtab_optimizer.data import Dataset
from trimtab_optimizer.importers.pytorch import load_module
from trimtab_optimizer.package import Model, load_package
from trimtab_optimizer.passes.contract import Workplace
from trimtab_optimizer.passes.convert import convert
from trimtab_optimizer.passes.distill import distill
from trimtab_optimizer.passes.prune import prune
from trimtab_optimizer.passes.quantize import quantize
from trimtab_optimizer.training.losses import answer_loss
from trimtab_optimizer.training.rounding import RoundedBlocks, RoundedChannels
from trimtab_testing.measures import accuracy

Work = Callable[..., Workplace]
TEACHER = "oci://registry.local:5000/models/teacher:v1"
STUDENT = "oci://registry.local:5000/models/student:v1"

SMALL = """
from torch import nn


def build():
    return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
"""


def distilling(**options: object) -> OptimizationPass:
    given = {"data": "oci://a/b", "epochs": 8, "batchSize": 32, "learningRate": 0.003, "temperature": 3, "alpha": 0.3}
    return OptimizationPass(distill=Distill.parse(given | options))


@pytest.fixture
def pruned(source: Model, work: Work) -> Model:
    return prune(OptimizationPass(prune=Prune(amount=0.7, round_to=1)), source, work("pruned")).model


@pytest.fixture
def small_package(linear_package: Callable[..., Path]) -> Model:
    """Return an untrained student of other code, for the digits."""
    torch.manual_seed(1)
    weights = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)).state_dict()
    tensors = {
        "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
    }
    return load_package(linear_package(code=SMALL, weights=dict(weights), **tensors))


def test_a_pruned_student_gets_back_what_pruning_cost(
    source: Model, pruned: Model, train: Dataset, test: Dataset, work: Work
) -> None:
    done = distill(distilling(), pruned, work("out", train, source))

    assert accuracy(pruned, test) < 0.9
    assert accuracy(done.model, test) >= accuracy(source, test) - 0.025
    assert done.model.size_bytes() == pytest.approx(pruned.size_bytes(), rel=0.02)
    losses = done.notes["losses"]
    assert isinstance(losses, list)
    assert losses[-1] < losses[0]


def test_a_teacher_alone_is_enough_without_labels(
    source: Model, pruned: Model, train: Dataset, test: Dataset, work: Work
) -> None:
    made = distill(distilling(alpha=0), pruned, work("out", replace(train, labels=None), source)).model

    assert accuracy(made, test) >= accuracy(source, test) - 0.03


def test_a_student_of_other_code_learns_from_an_onnx_teacher(
    source: Model, small_package: Model, train: Dataset, test: Dataset, work: Work
) -> None:
    teacher = convert(OptimizationPass(convert=Convert()), source, work("teacher")).model
    item = distilling(student={"uri": STUDENT}, epochs=20)

    made = distill(item, teacher, work("out", train, teacher, packages={STUDENT: small_package})).model

    assert accuracy(made, test) > 0.93
    assert made.package.name == source.package.name
    assert made.package.labels == source.package.labels


def test_a_job_killed_at_any_step_goes_on_to_the_same_bytes(
    source: Model, pruned: Model, train: Dataset, work: Work, checkpoints: object
) -> None:
    item = distilling(epochs=2, patience=3)
    whole = distill(item, pruned, work("whole", train, source)).model.weights.read_bytes()
    often = distilling(epochs=2, patience=3, checkpointSeconds=0)
    for number, steps in enumerate((1, 17, 2, 9)):
        checkpoints.saved, checkpoints.dies_after = 0, steps  # type: ignore[attr-defined]
        with pytest.raises(KeyboardInterrupt):
            distill(often, pruned, work(f"killed{number}", train, source))
        torch.manual_seed(99)  # another process would not have the generator where this one left it
    checkpoints.dies_after = None  # type: ignore[attr-defined]

    done = distill(often, pruned, work("last", train, source))

    assert done.notes["resumedAtStep"] == 29
    assert done.model.weights.read_bytes() == whole


def test_training_stops_where_the_held_out_loss_no_longer_falls(
    source: Model, pruned: Model, train: Dataset, work: Work
) -> None:
    done = distill(distilling(epochs=60, patience=1, learningRate=0.02), pruned, work("out", train, source))

    held_out = done.notes["heldOutLosses"]
    assert isinstance(held_out, list)
    assert done.notes["stoppedEarly"] is True
    assert len(held_out) < 60
    assert held_out[-1] >= min(held_out)


def test_training_that_knows_of_two_bits_loses_less_than_rounding_afterwards(
    source: Model, train: Dataset, test: Dataset, work: Work
) -> None:
    two_bits = {"dtype": "int2", "blockSize": 32}
    to_two_bits = OptimizationPass(quantize=Quantize(dtype="int2", block_size=32))
    aware = distill(distilling(epochs=6, quantization=two_bits), source, work("aware", train, source)).model

    served = []
    for name, model in (("plain", source), ("learned", aware)):
        made = convert(OptimizationPass(convert=Convert()), model, work(f"{name}-onnx")).model
        served.append(accuracy(quantize(to_two_bits, made, work(f"{name}-int2")).model, test))

    assert served[1] > served[0]
    assert served[1] >= accuracy(source, test) - 0.01
    assert abs(served[1] - accuracy(aware, test)) <= 0.005  # what was trained is what is stored


def test_zeros_of_pruning_stay_zeros_with_and_without_rounding(source: Model, train: Dataset, work: Work) -> None:
    sparse = prune(OptimizationPass(prune=Prune(structure="unstructured", amount=0.6)), source, work("sparse")).model

    for name, options in (("plain", {}), ("rounded", {"quantization": {"dtype": "int8"}})):
        made = distill(distilling(epochs=1, **options), sparse, work(name, train, source)).model
        weights = load_file(made.weights)
        assert all(
            (value == 0).mean() > 0.59 for key, value in weights.items() if key.endswith("weight") and value.ndim > 1
        )


@pytest.mark.parametrize(
    "features",
    [
        [{"student": "7", "teacher": "7"}],
        [{"student": "3", "teacher": "3", "weight": 0.5}],
        [{"student": "1", "teacher": "1", "match": "attention"}, {"student": "7", "teacher": "7"}],
    ],
    ids=["matrices of other widths", "channels of other numbers", "attention maps"],
)
def test_layers_inside_can_be_taught_too(
    source: Model, pruned: Model, train: Dataset, test: Dataset, work: Work, features: list[dict[str, object]]
) -> None:
    made = distill(distilling(features=features), pruned, work("out", train, source)).model

    assert accuracy(made, test) >= accuracy(source, test) - 0.03
    assert not any("projection" in name for name in load_file(made.weights))


@pytest.mark.parametrize(
    ("features", "told"),
    [
        ([{"student": "99", "teacher": "7"}], "no layer `99`"),
        ([{"student": "7", "teacher": "3"}], "differ in their width alone"),
        ([{"student": "7", "teacher": "7", "match": "attention"}], "have the same positions"),
    ],
)
def test_layers_that_cannot_be_compared_are_named(
    source: Model, pruned: Model, train: Dataset, work: Work, features: list[dict[str, object]], told: str
) -> None:
    with pytest.raises(PassFailed, match=told):
        distill(distilling(features=features), pruned, work("out", train, source))


def test_a_student_that_does_not_fit_its_teacher_is_refused(
    source: Model, linear_package: Callable[..., Path], train: Dataset, work: Work
) -> None:
    other = load_package(linear_package())
    with pytest.raises(PassFailed, match=r"the student has the input x FP32 \[-1, 4\], the teacher has pixels"):
        distill(distilling(student={"uri": STUDENT}), source, work("out", train, source, packages={STUDENT: other}))


def test_onnx_cannot_be_trained(source: Model, train: Dataset, work: Work) -> None:
    made = convert(OptimizationPass(convert=Convert()), source, work("onnx")).model
    with pytest.raises(PassFailed, match="put distill before convert, or name a student"):
        distill(distilling(), made, work("out", train, source))


def test_weighing_labels_needs_labels(source: Model, train: Dataset, work: Work) -> None:
    with pytest.raises(InvalidData, match="add `label`, or set alpha: 0"):
        distill(distilling(), source, work("out", replace(train, labels=None), source))


def test_a_loss_that_runs_away_ends_with_its_mend(source: Model, train: Dataset, work: Work) -> None:
    with pytest.raises(PassFailed, match="lower learningRate"):
        distill(distilling(learningRate=1e30, epochs=3), source, work("out", train, source))


def test_the_answer_loss_is_zero_for_equal_answers_and_grows_with_the_distance() -> None:
    scores = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5]])

    assert answer_loss([scores], [scores], 4.0).item() == pytest.approx(0, abs=1e-6)
    near, far = (answer_loss([scores + step * torch.eye(2, 3)], [scores], 4.0) for step in (0.5, 2.0))
    assert 0 < near < far


def test_the_answer_loss_is_hintons() -> None:
    student, teacher, temperature = torch.randn(5, 4), torch.randn(5, 4), 2.5
    p, q = torch.softmax(teacher / temperature, 1), torch.softmax(student / temperature, 1)
    expected = (p * (p / q).log()).sum(1).mean() * temperature**2

    assert answer_loss([student], [teacher], temperature).item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("rounding", [RoundedChannels(), RoundedBlocks(4, 16, False), RoundedBlocks(2, 32, True)])
def test_rounding_twice_is_rounding_once_and_lets_the_gradient_through(rounding: nn.Module) -> None:
    weight = torch.randn(12, 40, requires_grad=True)
    once = rounding(weight)
    once.sum().backward()

    assert torch.allclose(rounding(once.detach()), once, atol=1e-5)
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert len(np.unique(once.detach()[0].numpy())) <= (129 if isinstance(rounding, RoundedChannels) else 48)


def test_training_with_batch_norm_and_a_last_batch_of_one_row_works(
    linear_package: Callable[..., Path], work: Work
) -> None:
    code = "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))\n"
    torch.manual_seed(0)
    weights = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).state_dict()
    source = load_package(linear_package(code=code, weights=dict(weights)))
    rows = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)

    made = distill(distilling(batchSize=4), source, work("out", Dataset({"x": rows}, np.arange(9) % 3), source)).model

    assert not torch.equal(load_module(made, False).state_dict()["1.running_mean"], weights["1.running_mean"])


def test_a_package_is_never_unpickled_beside_the_source(
    source: Model, small_package: Model, train: Dataset, work: Work
) -> None:
    weights = load_module(small_package, False).state_dict()
    torch.save(weights, small_package.folder / "model.pth")
    package = small_package.package.model_copy(update={"weights": "model.pth"})
    student = Model(small_package.folder, package)

    with pytest.raises(Exception, match="pickled"):
        distill(
            distilling(student={"uri": STUDENT}),
            source,
            work("out", train, source, packages={STUDENT: student}, allow_pickle=True),
        )
    save_file(weights, small_package.folder / "model.safetensors")
