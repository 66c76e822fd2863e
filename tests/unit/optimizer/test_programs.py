"""Exported programs are served like any package, and refused with the mend where they do not fit their model.yaml."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trimtab_api.errors import InvalidPackage, PassFailed
from trimtab_api.plan import Plan, make_plan
from trimtab_api.spec import ModelDeploymentSpec
from trimtab_optimizer.data import load_data
from trimtab_optimizer.importers.pytorch import load_module
from trimtab_optimizer.package import load_package
from trimtab_optimizer.passes import check_order
from trimtab_optimizer.predict import predictor_of
from trimtab_testing.formats import taken_over
from trimtab_testing.programs import (
    BATCH,
    INPUTS,
    OUTPUTS,
    PROGRAM,
    SCRIPT,
    Linear,
    edited,
    exported,
    imported,
    repacked,
    write,
)

DATA = "oci://registry.local:5000/data/digits-train:v1"


class Dropping(Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(super().forward(x), 0.5, training=True)


class Two(Linear):
    def forward(self, x: torch.Tensor, *, shift: torch.Tensor) -> dict[str, torch.Tensor]:
        y: torch.Tensor = super().forward(x)
        return {"shifted": y + shift, "y": y}


class Counting(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return super().forward(x)


class Listed(Linear):
    def forward(self, x: list[torch.Tensor]) -> torch.Tensor:
        return super().forward(x[0])


@pytest.mark.parametrize("kind", [PROGRAM, SCRIPT])
@pytest.mark.parametrize("example", ["digits", "attention"])
def test_an_example_goes_the_whole_way_of_the_job_as_accurate_as_its_package(
    kind: str,
    example: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    publish: Callable[[Path, str], str],
    run_job: Callable[..., Any],
) -> None:
    build, uris = request.getfixturevalue(f"{example}_build"), request.getfixturevalue(example)
    package = load_package(build / "model")
    rows = load_data(build / "data-test", package.package, evaluation=True)
    wanted = predictor_of(package, False).predict(rows.inputs)[0].argmax(1)
    uri = publish(taken_over(build / "model", kind, tmp_path / kind), f"models/{kind}")
    source = {"uri": uri, "format": kind, "allowPickle": kind == SCRIPT}
    passes = [{"convert": {}}, {"quantize": {"mode": "weights"}}]

    answer = run_job({"source": source, "passes": passes, "evaluationData": uris["test"]})

    assert answer.failure is None
    found = {item.name: item for item in answer.result.metrics}
    assert found["accuracy"].source == pytest.approx(float((wanted == rows.labels).mean()), abs=1e-6)
    assert found["accuracy"].value > found["accuracy"].source - 0.01
    assert found["sizeBytes"].value < found["sizeBytes"].source / 2


def test_weights_of_a_program_learn_and_zeros_stay_zero(
    tmp_path: Path,
    digits_build: Path,
    digits: dict[str, str],
    publish: Callable[[Path, str], str],
    run_job: Callable[..., Any],
) -> None:
    uri = publish(taken_over(digits_build / "model", PROGRAM, tmp_path / "program"), "models/program")
    tuned = {"data": digits["train"], "epochs": 1}
    passes = [
        {"prune": {"structure": "unstructured", "amount": 0.8, "fineTune": tuned}},
        {"distill": {"data": digits["train"], "epochs": 1}},
        {"convert": {}},
    ]

    answer = run_job({"source": {"uri": uri, "format": PROGRAM}, "passes": passes, "evaluationData": digits["test"]})

    assert answer.failure is None
    found = {item.name: item for item in answer.result.metrics}
    assert found["accuracy"].value > 0.9
    assert found["sizeBytes"].value < found["sizeBytes"].source / 2


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("shape", [BATCH, torch.export.Dim.AUTO, torch.export.Dim.DYNAMIC])
def test_every_way_to_free_the_batch_is_taken(tmp_path: Path, shape: Any, strict: bool) -> None:
    module = Linear()
    program = exported(module, dynamic_shapes=({0: shape},), strict=strict)

    predictor = predictor_of(imported(write(tmp_path / "package", program)), False)

    for rows in (1, 2, 300):
        x = np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float32)
        assert np.allclose(predictor.predict({"x": x})[0], module(torch.from_numpy(x)).detach().numpy(), atol=1e-6)


def test_inputs_by_name_and_outputs_in_a_dict_find_their_tensors(tmp_path: Path) -> None:
    module = Two().eval()
    given = {"x": torch.randn(2, 4), "shift": torch.randn(2, 3)}
    shapes = {"x": {0: BATCH}, "shift": {0: BATCH}}
    program = torch.export.export(module, (given["x"],), {"shift": given["shift"]}, dynamic_shapes=shapes)
    inputs = [{"name": "shift", "shape": [-1, 3]}, *INPUTS]
    outputs = [*OUTPUTS, {"name": "shifted", "shape": [-1, 3]}]

    made = imported(write(tmp_path / "package", program, inputs=inputs, outputs=outputs))

    y, shifted = predictor_of(made, False).predict({name: value.numpy() for name, value in given.items()})
    assert np.allclose(shifted - y, given["shift"].numpy(), atol=1e-6)


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[1].weight = module[0].weight

    made = load_module(imported(write(tmp_path / "package", exported(module), outputs=INPUTS)), False)

    assert made.get_parameter("1.weight") is made.get_parameter("0.weight")
    assert torch.equal(made.get_parameter("0.weight"), module[0].weight)


@pytest.mark.parametrize(
    ("program", "changes", "named"),
    [
        (lambda: exported(Linear(), dynamic_shapes=None), {}, "input x has the fixed batch size 2; export it with dyn"),
        (
            lambda: exported(Linear(), dynamic_shapes=({0: torch.export.Dim("batch", max=64)},)),
            {},
            r"input x takes 0 to 64 rows, not any number; .* without min and max",
        ),
        (lambda: exported(Dropping()), {}, r"answers the same rows differently; call model\.eval\(\)"),
        (lambda: exported(Counting()), {}, r"changes its own buffers or inputs .*; call model\.eval\(\)"),
        (
            lambda: exported(Listed(), [torch.randn(2, 4)], dynamic_shapes=([{0: BATCH}],)),
            {},
            "takes tensors in lists or dicts",
        ),
        (lambda: exported(Linear()), {"inputs": [{"name": "x", "shape": [-1, 5]}]}, r"input x has the shape \[-1, 4\]"),
        (
            lambda: exported(Linear()),
            {"inputs": [{"name": "x", "shape": [-1, -1]}]},
            r"input x has the shape \[-1, 4\]",
        ),
        (
            lambda: exported(Linear()),
            {"inputs": [{"name": "x", "shape": [-1, 4], "datatype": "INT64"}]},
            r"input x \(input\) is torch\.float32, model\.yaml says INT64",
        ),
        (
            lambda: exported(Linear()),
            {"inputs": [*INPUTS, *OUTPUTS]},
            r"takes 1 inputs by position, model\.yaml names x",
        ),
        (
            lambda: exported(Linear()),
            {"outputs": [{"name": "y", "shape": [-1, 9]}]},
            r"output y has the shape \['rows'",
        ),
        (lambda: exported(Linear()), {"outputs": [*OUTPUTS, *INPUTS]}, "names 2 output tensors"),
    ],
)
def test_a_program_that_does_not_fit_is_refused_with_the_mend(
    tmp_path: Path, program: Callable[[], Any], changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidPackage, match=named):
        imported(write(tmp_path / "package", program(), **changes))


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda file: file.write_bytes(b"text"), "is not a whole .pt2 file"),
        (lambda file: file.write_bytes(file.read_bytes()[:-200]), "holds no whole program"),
        (lambda file: file.write_bytes(file.read_bytes()[:200]), "is not a whole .pt2 file"),
        (lambda file: torch.save({"weight": torch.ones(2)}, file), "holds no whole program"),
        (lambda file: repacked(file, {"data/weights/weight_0": b"\0" * 8}), "is not a whole .pt2 file"),
        (lambda file: repacked(file, {"models/model.json": b"[]"}), "is not an object"),
        (lambda file: repacked(file, {"models/model.json": b"{}"}), "the program is damaged"),
        (lambda file: edited(file, "models/model.json", lambda p: p["graph_module"].pop("graph")), "cannot read the"),
        (lambda file: repacked(file, {"data/weights/model.pt": b""}), "was written by an older torch"),
        (lambda file: file.unlink(), r"has no file `model\.pt2`"),
    ],
)
def test_what_is_no_whole_program_is_refused(tmp_path: Path, spoil: Callable[[Path], Any], named: str) -> None:
    folder = write(tmp_path / "package", exported(Linear()))
    spoil(folder / "model.pt2")

    with pytest.raises(InvalidPackage, match=named):
        imported(folder)


@pytest.mark.parametrize("kind", [PROGRAM, SCRIPT])
@pytest.mark.parametrize(
    ("item", "named"),
    [
        ({"prune": {"amount": 0.5}}, "channels are found by the layers"),
        ({"distill": {"data": DATA, "features": [{"student": "a", "teacher": "b"}]}}, "leave features out"),
        ({"distill": {"data": DATA, "quantization": {"dtype": "int8"}}}, "leave quantization out"),
    ],
)
def test_what_needs_layers_is_refused_before_anything_runs(kind: str, item: dict[str, Any], named: str) -> None:
    plan = Plan.parse({"source": {"uri": "oci://a/b:c", "format": kind}, "passes": [item, {"convert": {}}]})

    with pytest.raises(PassFailed, match=named):
        check_order(plan)


@pytest.mark.parametrize("kind", [PROGRAM, SCRIPT])
def test_a_program_is_converted_without_being_told(kind: str) -> None:
    model = {"uri": "oci://a/b:c", "format": kind, "allowPickle": kind == SCRIPT}
    passes = [{"prune": {"structure": "unstructured", "amount": 0.5}}, {"quantize": {}}]

    plan = make_plan(ModelDeploymentSpec.parse({"model": model, "optimization": {"passes": passes}}))

    check_order(plan)
    assert [item.kind for item in plan.passes] == ["convert", "prune", "quantize"]
