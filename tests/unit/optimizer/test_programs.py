"""Exported programs and TorchScript are served like any package; what their files bring besides a model never runs."""

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from trimtab_api.errors import InvalidPackage, PassFailed, UnsafeFormat
from trimtab_api.plan import Plan, make_plan
from trimtab_api.spec import ModelDeploymentSpec, ModelSource
from trimtab_optimizer.data import load_data
from trimtab_optimizer.importers import import_source
from trimtab_optimizer.importers.pytorch import load_module
from trimtab_optimizer.package import Model, load_package
from trimtab_optimizer.passes import check_order
from trimtab_optimizer.predict import predictor_of
from trimtab_testing.formats import taken_over

PROGRAM, SCRIPT = "torch-export", "torchscript"
BATCH = torch.export.Dim("batch")
INPUTS = [{"name": "x", "shape": [-1, 4]}]
OUTPUTS = [{"name": "y", "shape": [-1, 3]}]
DATA = "oci://registry.local:5000/data/digits-train:v1"

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class Linear(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 3)


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


class Branch(Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.linear(x, self.weight, self.bias)
        if bool(y.sum() > 0):
            y = y * 2
        return y


def exported(module: nn.Module, *rows: Any, **options: Any) -> torch.export.ExportedProgram:
    """Export a module with a free batch."""
    options = {"dynamic_shapes": ({0: BATCH},)} | options
    return torch.export.export(module.eval(), rows or (torch.randn(2, 4),), **options)


def write(folder: Path, model: Any, kind: str = PROGRAM, **changes: Any) -> Path:
    """Write the package of a program, or of TorchScript."""
    folder.mkdir()
    manifest = {"name": "linear", "format": kind, "inputs": INPUTS, "outputs": OUTPUTS} | changes
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest))
    if kind == PROGRAM:
        torch.export.save(model, folder / "model.pt2")
    else:
        torch.jit.save(model, str(folder / "model.pt"))
    return folder


def imported(folder: Path, kind: str = PROGRAM, allow_pickle: bool = False) -> Model:
    source = ModelSource(uri="oci://a/b:c", format=kind, allow_pickle=allow_pickle)
    return import_source(source, folder, folder.with_name(f"{folder.name}-imported"))


def repacked(file: Path, changes: dict[str, bytes]) -> None:
    """Write an archive again with other content in some of its members, by the end of their names."""
    with zipfile.ZipFile(file) as old:
        content = {info.filename: old.read(info) for info in old.infolist()}
    root = next(iter(content)).partition("/")[0]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as new:
        for name, data in (content | {f"{root}/{name}": data for name, data in changes.items()}).items():
            new.writestr(name, data)


def edited(file: Path, member: str, edit: Callable[[Any], None]) -> None:
    """Edit the JSON of a member of an archive."""
    with zipfile.ZipFile(file) as old:
        (name,) = [name for name in old.namelist() if name.endswith(member)]
        content = json.loads(old.read(name))
    edit(content)
    repacked(file, {member: json.dumps(content).encode()})


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return os.mkdir, (str(self._path), 0o700)


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Path]:
    """A folder that is there only if something ran."""
    path = tmp_path / "sprung"
    yield path
    assert not path.exists()


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


def test_pickles_of_a_program_that_are_not_needed_are_not_read(tmp_path: Path, trap: Path) -> None:
    folder = write(tmp_path / "package", exported(Linear()))
    torch.save(Trap(trap), tmp_path / "trap")
    pickle = (tmp_path / "trap").read_bytes()
    repacked(folder / "model.pt2", {"data/sample_inputs/model.pt": pickle, "data/aotinductor/model/a.so": pickle})

    assert imported(folder).package.weights == "model.safetensors"


@pytest.mark.parametrize("place", ["weights", "constants"])
def test_pickled_tensors_of_a_program_are_refused(tmp_path: Path, trap: Path, place: str) -> None:
    folder = write(tmp_path / "package", exported(Linear()))
    torch.save(Trap(trap), tmp_path / "trap")
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    repacked(folder / "model.pt2", {f"data/{place}/opaque_obj_0": (tmp_path / "trap").read_bytes()})
    listing = f"data/{place}/model_{place}_config.json"
    edited(folder / "model.pt2", listing, lambda found: found["config"].update({"weight": entry}))

    with pytest.raises(UnsafeFormat, match="weight is pickled: reading it can run any code"):
        imported(folder)


def _walk(value: Any, key: str) -> Iterator[dict[str, Any]]:
    """Yield each object that has a key, at any depth."""
    if isinstance(value, dict):
        if key in value:
            yield value
        for below in value.values():
            yield from _walk(below, key)
    if isinstance(value, list):
        for below in value:
            yield from _walk(below, key)


def _put(key: str, text: str) -> Callable[[Any], None]:
    return lambda program: next(_walk(program["graph_module"], key)).update({key: text})


def _name_of_an_input(text: str) -> Callable[[Any], None]:
    def put(program: Any) -> None:
        written = json.dumps(program).replace('"input"', json.dumps(text))
        program.clear()
        program.update(json.loads(written))

    return put


CALL = "__import__('os').mkdir({trap!r})"
FACTORY = {"default_factory_module": "os", "default_factory_name": "getcwd", "dict_context": []}
DEFAULTDICT = {"type": "collections.defaultdict", "context": json.dumps(FACTORY), "children_spec": []}
ENUM = {"type": "builtins.dict", "context": '[{"__enum__": true, "fqn": "os:mkdir", "name": "x"}]', "children_spec": []}


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda trap: _put("expr_str", CALL.format(trap=trap)), "which is no arithmetic of lengths"),
        (lambda trap: _put("expr_str", "Symbol('s0').__class__"), "which is no arithmetic of lengths"),
        (lambda trap: _put("expr_str", f"Symbol({CALL.format(trap=trap)!r})"), "which is no arithmetic of lengths"),
        (lambda trap: _put("expr_str", "Pow(Integer(9), Pow(Integer(9), Integer(9)))"), "no arithmetic of lengths"),
        (lambda trap: _put("expr_str", "(" * 900 + "1" + ")" * 900), "which is no arithmetic of lengths"),
        (lambda trap: _name_of_an_input(f"x={CALL.format(trap=trap)}"), "which is no name"),
        (lambda trap: _put("name", f"y\n{CALL.format(trap=trap)}"), "which is no name"),
        (lambda trap: _put("parameter_name", "__class__.forward"), "which is no name"),
        (lambda trap: _put("target", "torch.serialization.os.mkdir"), "is no operator of torch"),
        (lambda trap: _put("target", "torch.ops.aten.from_file.default"), "is no operator of torch"),
        (lambda trap: _put("target", "torch.ops.aten.save"), "is no operator of torch"),
        (lambda trap: _put("target", "#mine:run"), "is no operator of torch"),
        (lambda trap: _put("out_spec", json.dumps([1, DEFAULTDICT])), "takes a 'collections.defaultdict'"),
        (lambda trap: _put("out_spec", json.dumps([1, ENUM])), "keys are no names"),
    ],
)
def test_text_that_torch_would_run_is_refused(
    tmp_path: Path, trap: Path, edit: Callable[[str], Callable[[Any], None]], named: str
) -> None:
    folder = write(tmp_path / "package", exported(Linear()))
    edited(folder / "model.pt2", "models/model.json", edit(str(trap)))

    with pytest.raises((UnsafeFormat, InvalidPackage), match=named):
        imported(folder)


def test_guards_of_a_program_are_not_compiled(tmp_path: Path, trap: Path) -> None:
    folder = write(tmp_path / "package", exported(Linear()))
    guard = f"L['input'].size()[0] > {CALL.format(trap=str(trap))}"
    edited(folder / "model.pt2", "models/model.json", lambda program: program.update(guards_code=[guard]))

    assert predictor_of(imported(folder), False).predict({"x": np.ones((2, 4), np.float32)})[0].shape == (2, 3)


@pytest.mark.parametrize("make", [torch.jit.script, lambda module: torch.jit.trace(module, torch.randn(2, 4))])
def test_torchscript_answers_what_it_did(tmp_path: Path, make: Callable[[nn.Module], Any]) -> None:
    script = make(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).eval())

    made = imported(write(tmp_path / "package", script, SCRIPT), SCRIPT, allow_pickle=True)

    x = torch.randn(5, 4)
    assert np.allclose(predictor_of(made, False).predict({"x": x.numpy()})[0], script(x).detach().numpy(), atol=1e-6)


def test_a_branch_of_torchscript_is_kept(tmp_path: Path) -> None:
    script = torch.jit.script(Branch().eval())

    made = imported(write(tmp_path / "package", script, SCRIPT), SCRIPT, allow_pickle=True)

    for x in (torch.full((3, 4), 10.0), torch.full((3, 4), -10.0)):
        found = predictor_of(made, False).predict({"x": x.numpy()})[0]
        assert np.allclose(found, script(x).detach().numpy(), atol=1e-5)


def test_torchscript_without_opt_in_is_not_even_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "package", torch.jit.script(Linear()), SCRIPT)
    (folder / "model.pt").write_bytes(b"not even read")

    with pytest.raises(UnsafeFormat, match=r"can run code and write files; set spec\.model\.allowPickle: true"):
        imported(folder, SCRIPT)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-300]), "is not TorchScript that can be read here"),
        (lambda file: torch.save({"weight": torch.ones(2)}, file), r"weights of torch\.save are format: pytorch"),
        (
            lambda file: torch.jit.save(torch.jit.trace(nn.Unflatten(1, (2, 2)), torch.randn(2, 4)), str(file)),
            "names 1 output|output y has the shape",
        ),
    ],
)
def test_torchscript_that_cannot_be_taken_is_refused(tmp_path: Path, spoil: Callable[[Path], Any], named: str) -> None:
    folder = write(tmp_path / "package", torch.jit.script(Linear()), SCRIPT)
    spoil(folder / "model.pt")

    with pytest.raises(InvalidPackage, match=named):
        imported(folder, SCRIPT, allow_pickle=True)


class Fixed(Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).reshape(2, 3)


def test_torchscript_that_was_traced_for_two_rows_is_refused(tmp_path: Path) -> None:
    script = torch.jit.trace(Fixed(), torch.randn(2, 4), check_trace=False)

    with pytest.raises(InvalidPackage, match=r"fixed batch size 2|script the module, or trace it without lengths"):
        imported(write(tmp_path / "package", script, SCRIPT), SCRIPT, allow_pickle=True)


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
