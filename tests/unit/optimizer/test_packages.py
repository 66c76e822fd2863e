"""Model packages that cannot work are refused before any pass runs, and the message says what to mend."""

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, helper

from trimtab_api.errors import InvalidPackage, SourceNotFound, UnsafeFormat
from trimtab_api.spec import ModelFormat, ModelSource
from trimtab_optimizer.importers import import_source
from trimtab_optimizer.importers.code import importable
from trimtab_optimizer.importers.onnx import import_onnx
from trimtab_optimizer.importers.pytorch import check_pytorch, load_module
from trimtab_optimizer.package import load_package

Write = Callable[..., Path]


def _check(folder: Path, allow_pickle: bool = False) -> None:
    check_pytorch(load_package(folder), allow_pickle)


def test_a_good_package_is_loaded_with_its_weights(linear_package: Write) -> None:
    module = load_module(load_package(linear_package()), allow_pickle=False)

    assert module.state_dict()["bias"].tolist() == [-1.0, 0.0, 1.0]


def test_a_folder_without_model_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"x")

    with pytest.raises(InvalidPackage, match=r"no model\.yaml \(found: weights\.bin\)"):
        load_package(tmp_path)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "is not YAML"),
        ("- 1", "is not valid"),
        ("name: a", "format: Field required"),
        (yaml.safe_dump({"name": "a", "format": "onnx", "inputs": [], "outputs": []}), "inputs: "),
        (yaml.safe_dump({"name": "a", "format": "caffe", "inputs": [], "outputs": []}), "format: "),
    ],
)
def test_a_wrong_model_yaml_is_explained(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "model.yaml").write_text(text)

    with pytest.raises(InvalidPackage, match=named):
        load_package(tmp_path)


def test_a_batch_axis_has_to_be_free(linear_package: Write) -> None:
    folder = linear_package(inputs=[{"name": "x", "shape": [1, 4]}])

    with pytest.raises(InvalidPackage, match="the first axis of x is the batch and has to be -1"):
        load_package(folder)


def test_a_format_other_than_the_spec_says_is_refused(linear_package: Write, tmp_path: Path) -> None:
    source = ModelSource(uri="oci://a/b", format=ModelFormat.ONNX)

    with pytest.raises(InvalidPackage, match=r"model\.yaml says format pytorch, the spec says onnx"):
        import_source(source, linear_package(), tmp_path / "out")


CODE = "from torch import nn\n\n\n"


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("raise RuntimeError('at import')\n", "cannot be imported: RuntimeError: at import"),
        ("import sys\nsys.exit(3)\n", "cannot be imported: SystemExit"),
        ("import no_such_module_anywhere\n", "No module named 'no_such_module_anywhere'"),
        ("def build(:\n", "SyntaxError"),
        ("build = 7\n", "no callable `build`"),
        ("def other():\n    pass\n", "no callable `build`"),
        ("def build():\n    raise ValueError('inside')\n", "raised ValueError: inside"),
        ("def build(width):\n    pass\n", "raised TypeError"),
        ("def build():\n    return 7\n", r"gave int, expected a torch\.nn\.Module"),
    ],
)
def test_an_entrypoint_that_does_not_build_is_named(linear_package: Write, code: str, named: str) -> None:
    with pytest.raises(InvalidPackage, match=rf"entrypoint linear:build.*{named}"):
        _check(linear_package(code=code))


@pytest.mark.parametrize("entrypoint", ["json:loads", "absent:build", "linear", "os.path:join"])
def test_an_entrypoint_outside_the_package_is_refused(linear_package: Write, entrypoint: str) -> None:
    with pytest.raises(InvalidPackage, match="entrypoint"):
        _check(linear_package(entrypoint=entrypoint))


def test_two_packages_with_the_same_module_name_do_not_meet(linear_package: Write) -> None:
    wider = CODE + "def build():\n    return nn.Linear(4, 5)\n"
    weights = {"weight": torch.zeros(5, 4), "bias": torch.zeros(5)}

    first = load_module(load_package(linear_package()), False)
    second = load_module(load_package(linear_package(code=wider, weights=weights)), False)

    assert (first.out_features, second.out_features) == (3, 5)


def test_missing_and_unexpected_weights_are_listed(linear_package: Write) -> None:
    folder = linear_package(weights={"weight": torch.zeros(3, 4), "stray": torch.zeros(2)})

    with pytest.raises(InvalidPackage, match=r"missing: bias; unexpected: stray"):
        _check(folder)


def test_weights_of_another_shape_are_refused(linear_package: Write) -> None:
    folder = linear_package(weights={"weight": torch.zeros(3, 5), "bias": torch.zeros(3)})

    with pytest.raises(InvalidPackage, match=r"size mismatch for weight"):
        _check(folder)


def test_weights_that_are_no_safetensors_are_refused(linear_package: Write) -> None:
    folder = linear_package()
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)

    with pytest.raises(InvalidPackage, match="is not a safetensors file"):
        _check(folder)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/hostname", "absent.safetensors"])
def test_weights_outside_or_absent_are_refused(linear_package: Write, name: str) -> None:
    with pytest.raises(InvalidPackage, match=r"leads outside|has no file"):
        _check(_renamed(linear_package(), name))


def _renamed(folder: Path, name: str) -> Path:
    content = yaml.safe_load((folder / "model.yaml").read_text())
    (folder / "model.yaml").write_text(yaml.safe_dump(content | {"weights": name}))
    return folder


def test_pickled_weights_need_the_opt_in(linear_package: Write) -> None:
    folder = _renamed(linear_package(), "model.pth")
    torch.save({"weight": torch.zeros(3, 4), "bias": torch.ones(3)}, folder / "model.pth")

    with pytest.raises(UnsafeFormat, match=r"allowPickle: true"):
        _check(folder)
    assert load_module(load_package(folder), allow_pickle=True).state_dict()["bias"].tolist() == [1.0, 1.0, 1.0]


NET = "from torch import nn\n\n\nclass Net(nn.Linear):\n    pass\n\n\ndef build():\n    return Net(4, 3)\n"


def test_a_whole_module_that_was_pickled_gives_its_weights(linear_package: Write) -> None:
    folder = _renamed(linear_package(code=NET), "model.pth")
    with importable(folder):
        module = importlib.import_module("linear").Net(4, 3)
        torch.nn.init.ones_(module.bias)
        torch.save(module, folder / "model.pth")

    with pytest.raises(UnsafeFormat, match=r"allowPickle: true"):
        _check(folder)
    assert load_module(load_package(folder), allow_pickle=True).state_dict()["bias"].tolist() == [1.0, 1.0, 1.0]


def test_a_module_that_was_pickled_without_its_code_is_refused_with_the_mend(linear_package: Write) -> None:
    folder = _renamed(linear_package(), "model.pth")
    torch.save(_Elsewhere(4, 3), folder / "model.pth")
    (folder / "model.pth").write_bytes((folder / "model.pth").read_bytes().replace(b"_Elsewhere", b"_Nowherefd"))

    with pytest.raises(InvalidPackage, match=r"model\.pth cannot be read: .*; save module\.state_dict\(\) rather than"):
        _check(folder, allow_pickle=True)


@pytest.mark.parametrize(
    ("content", "named"), [([1, 2], "holds list, expected a state_dict"), ({"weight": 1}, "does not fit the module")]
)
def test_a_pickle_of_something_else_is_refused(linear_package: Write, content: Any, named: str) -> None:
    folder = _renamed(linear_package(), "model.pth")
    torch.save(content, folder / "model.pth")

    with pytest.raises(InvalidPackage, match=named):
        _check(folder, allow_pickle=True)


def test_a_pickle_that_ends_early_is_refused(linear_package: Write) -> None:
    folder = _renamed(linear_package(), "model.pth")
    torch.save({"weight": torch.zeros(3, 4), "bias": torch.ones(3)}, folder / "model.pth")
    (folder / "model.pth").write_bytes((folder / "model.pth").read_bytes()[:-100])

    with pytest.raises(InvalidPackage, match=r"model\.pth cannot be read"):
        _check(folder, allow_pickle=True)


class _Elsewhere(torch.nn.Linear):
    """A module whose class is in no package."""


class _Trap:
    """Runs code when unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return os.mkdir, (str(self._path), 0o700)


def test_a_pickle_without_opt_in_is_not_even_read(linear_package: Write, tmp_path: Path) -> None:
    folder = _renamed(linear_package(), "model.pt")
    torch.save({"weight": _Trap(tmp_path / "sprung")}, folder / "model.pt")

    with pytest.raises(UnsafeFormat):
        _check(folder)

    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"inputs": [{"name": "x", "shape": [-1, 7]}]}, r"cannot take the inputs of model\.yaml \(x \[-1, 7\]\)"),
        ({"outputs": [{"name": "y", "shape": [-1, 9]}]}, r"output y has the shape \['rows', 3\]"),
        ({"outputs": [{"name": "y", "shape": [-1, 3], "datatype": "INT64"}]}, r"output y is torch\.float32"),
        ({"outputs": [{"name": "y", "shape": [-1, 3]}, {"name": "z", "shape": [-1]}]}, "names 2 output tensors"),
    ],
)
def test_a_model_yaml_that_does_not_fit_the_module_is_refused(
    linear_package: Write, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidPackage, match=named):
        _check(linear_package(**changes))


def test_outputs_are_taken_by_name_from_a_module_that_gives_a_dict(linear_package: Write) -> None:
    code = CODE + (
        "class Both(nn.Linear):\n    def forward(self, x):\n        y = super().forward(x)\n"
        "        return {'other': y * 2, 'y': y}\n\n\ndef build():\n    return Both(4, 3)\n"
    )
    _check(linear_package(code=code))

    with pytest.raises(InvalidPackage, match=r"no output absent \(found: other, y\)"):
        _check(linear_package(code=code, outputs=[{"name": "absent", "shape": [-1, 3]}]))


ONNX_YAML = {
    "name": "graph",
    "format": "onnx",
    "inputs": [{"name": "x", "shape": [-1, 4]}],
    "outputs": [{"name": "y", "shape": [-1, 3]}],
}


@pytest.fixture
def onnx_package(tmp_path: Path) -> Callable[..., Path]:
    """Write an ONNX package of one MatMul; `location` puts its weights beside the graph."""

    def write(batch: int | str = "batch", location: str | None = None, **changes: Any) -> Path:
        folder = tmp_path / "onnx"
        folder.mkdir()
        weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 3], [0.5] * 12)
        if location is not None:
            raw = b"\0\0\0\x3f" * 12
            weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 3])
            weights.data_location = TensorProto.EXTERNAL
            weights.external_data.add(key="location", value=location)
            (folder / "inside.bin").write_bytes(raw)
            (tmp_path / "outside.bin").write_bytes(raw)
            (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])],
            [weights],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        (folder / "model.yaml").write_text(yaml.safe_dump(ONNX_YAML | changes))
        return folder

    return write


def test_an_onnx_package_is_laid_out_like_an_artifact(onnx_package: Write, tmp_path: Path) -> None:
    made = import_onnx(load_package(onnx_package(location="inside.bin")), tmp_path / "out")

    assert sorted(path.name for path in made.folder.iterdir()) == ["inside.bin", "model.onnx", "model.yaml"]
    assert made.size_bytes() > 48
    onnx.checker.check_model(str(made.weights))


@pytest.mark.parametrize(
    "location", ["../outside.bin", "/etc/hostname", "link.bin", "absent.bin", "a/../../outside.bin"]
)
def test_external_data_stays_inside_the_package(onnx_package: Write, tmp_path: Path, location: str) -> None:
    with pytest.raises(InvalidPackage, match=r"leads outside|is a link|has no file"):
        import_onnx(load_package(onnx_package(location=location)), tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"inputs": [{"name": "z", "shape": [-1, 4]}]}, r"the inputs \['x'\], model\.yaml says \['z'\]"),
        ({"outputs": [{"name": "z", "shape": [-1, 3]}]}, r"the outputs \['y'\], model\.yaml says \['z'\]"),
        ({"inputs": [{"name": "x", "shape": [-1, 5]}]}, r"input x has the shape \[-1, 4\]"),
        ({"inputs": [{"name": "x", "shape": [-1, -1]}]}, r"input x has the shape \[-1, 4\]"),
        ({"inputs": [{"name": "x", "shape": [-1, 4, 1]}]}, r"input x has the shape"),
        ({"inputs": [{"name": "x", "shape": [-1, 4], "datatype": "INT64"}]}, r"input x is FLOAT"),
    ],
)
def test_a_graph_that_does_not_fit_its_model_yaml_is_refused(
    onnx_package: Write, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidPackage, match=named):
        import_onnx(load_package(onnx_package(**changes)), tmp_path / "out")


def test_a_graph_with_a_fixed_batch_is_refused(onnx_package: Write, tmp_path: Path) -> None:
    with pytest.raises(InvalidPackage, match="fixed batch size 8; export it again with a dynamic first axis"):
        import_onnx(load_package(onnx_package(batch=8)), tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"text", b"\x08\x0a"], ids=["empty", "text", "cut"])
def test_what_is_no_onnx_is_refused(onnx_package: Write, tmp_path: Path, content: bytes) -> None:
    folder = onnx_package()
    (folder / "model.onnx").write_bytes(content)

    with pytest.raises(InvalidPackage, match=r"not an ONNX file|not valid ONNX"):
        import_onnx(load_package(folder), tmp_path / "out")


def test_a_source_that_does_not_exist_is_not_found(run_job: Callable[[dict[str, Any]], Any]) -> None:
    answer = run_job({"source": {"uri": "oci://registry.local:5000/models/absent:v1"}, "passes": []})

    assert (answer.code, answer.failure.reason) == (42, SourceNotFound.reason)
