"""LiteRT and SavedModel, made by the real TensorFlow in an environment of its own (trimtab_testing/tensorflow.py)."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trimtab_api.errors import InvalidPackage, MissingTool, PassFailed
from trimtab_api.spec import Calibration, Convert, ModelFormat, ModelSource, OptimizationPass, Prune, Quantize, Target
from trimtab_optimizer.importers import import_source
from trimtab_optimizer.litert.file import count_litert_operators
from trimtab_optimizer.litert.tools import INTERPRETER
from trimtab_optimizer.measuring.latency import latency_ratio
from trimtab_optimizer.measuring.layers import worst_layers
from trimtab_optimizer.measuring.memory import peak_memory
from trimtab_optimizer.package import Model, load_package, write_package
from trimtab_optimizer.passes import litert_export
from trimtab_optimizer.passes.contract import Workplace
from trimtab_optimizer.passes.convert import convert
from trimtab_optimizer.passes.prune import prune
from trimtab_optimizer.passes.quantize import quantize
from trimtab_optimizer.passes.verification import TOLERANCE
from trimtab_optimizer.predict import predictor_of
from trimtab_runtime.model.session import load_model
from trimtab_testing.tensorflow import tensorflow_python

LITERT = OptimizationPass(convert=Convert(to=Target.LITERT))
SAVEDMODEL = OptimizationPass(convert=Convert(to=Target.SAVEDMODEL))
STATIC = Quantize(mode="static", calibration=Calibration(uri="oci://r/d:v1", samples=64))

PICTURES = """import torch
from torch import nn


class Pictures(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.embed = nn.Embedding(2, 5)

    def forward(self, picture, kind):
        features = torch.relu(self.conv(picture))
        return {"kinds": self.embed(kind).sum(1), "features": features}


def build():
    return Pictures()
"""
PICTURES_YAML: dict[str, Any] = {
    "inputs": [
        {"name": "kind", "datatype": "INT64", "shape": [-1, 2]},
        {"name": "picture.1", "shape": [-1, 3, 6, 8]},
    ],
    "outputs": [{"name": "features", "shape": [-1, 5, 6, 8]}, {"name": "kinds", "shape": [-1, 5]}],
}


@pytest.fixture(scope="module", autouse=True)
def tensorflow() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(INTERPRETER, str(tensorflow_python()))
        yield


@pytest.fixture(scope="module")
def made(digits_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The digits as a SavedModel, with the LiteRT file of the same graph."""
    return _converted(SAVEDMODEL, load_package(digits_build / "model"), tmp_path_factory.mktemp("made"))


def _converted(item: OptimizationPass, source: Model, folder: Path) -> Model:
    scratch = folder / "scratch"
    scratch.mkdir()
    place = Workplace(folder / "out", scratch, 0, False, source=source, checkpoints=None)  # type: ignore[arg-type]
    return convert(item, source, place).model


@pytest.fixture
def litert(made: Model, tmp_path: Path) -> Model:
    """The same without its SavedModel, as `to: litert` leaves it."""
    folder = tmp_path / "litert"
    shutil.copytree(made.folder, folder, ignore=shutil.ignore_patterns("saved_model"))
    return load_package(folder)


def test_litert_predicts_what_pytorch_predicts_for_any_number_of_rows(made: Model, source: Model, test: Any) -> None:
    runs = predictor_of(source, False), predictor_of(made, False)
    for rows in (1, 7, 3, 64):
        inputs = {"pixels": test.inputs["pixels"][:rows]}
        expected, found = (run.predict(inputs)[0] for run in runs)
        assert np.abs(expected - found).max() <= TOLERANCE * max(1.0, float(np.abs(expected).max()))


def test_attention_becomes_litert_with_a_free_number_of_rows(attention_build: Path, tmp_path: Path) -> None:
    source = load_package(attention_build / "model")

    made = _converted(LITERT, source, tmp_path)

    for rows in (1, 5):
        inputs = {"measurements": np.random.default_rng(rows).standard_normal((rows, 30)).astype(np.float32)}
        expected, found = (predictor_of(model, False).predict(inputs)[0] for model in (source, made))
        assert np.abs(expected - found).max() <= TOLERANCE * max(1.0, float(np.abs(expected).max()))


def test_names_order_types_and_layouts_stay_those_of_model_yaml(
    linear_package: Callable[..., Path], tmp_path: Path
) -> None:
    yaml = {**PICTURES_YAML, "inputs": list(reversed(PICTURES_YAML["inputs"]))}
    source = load_package(linear_package(code=PICTURES, weights=_weights(PICTURES), **yaml))

    made = _converted(SAVEDMODEL, source, tmp_path)

    assert made.package.inputs == source.package.inputs
    assert made.package.outputs == source.package.outputs
    served = load_model(made.folder, threads=1)
    random = np.random.default_rng(3)
    rows = {
        "picture.1": random.standard_normal((4, 3, 6, 8)).astype(np.float32),
        "kind": random.integers(0, 2, (4, 2)),
    }
    answers = served.run(rows)
    assert answers["features"].shape == (4, 5, 6, 8)
    expected = predictor_of(source, False).predict(rows)
    assert np.abs(answers["features"] - expected[0]).max() <= TOLERANCE
    assert np.abs(answers["kinds"] - expected[1]).max() <= TOLERANCE


def test_the_same_source_gives_the_same_bytes_in_any_place(
    made: Model, digits_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    again = _converted(SAVEDMODEL, load_package(digits_build / "model"), tmp_path)

    assert _content(again.folder) == _content(made.folder)
    assert not [name for name, content in _content(made.folder).items() if b"/tmp" in content or b".py" in content]


def _weights(code: str) -> dict[str, Any]:
    """Return the weights of the module that a package's code builds."""
    made: dict[str, Any] = {}
    exec(code, made)
    return dict(made["build"]().state_dict())


def _content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_an_artifact_for_elsewhere_has_the_savedmodel_and_counts_what_is_served(made: Model) -> None:
    assert (made.folder / "saved_model/saved_model.pb").is_file()
    assert (made.folder / "saved_model/variables").is_dir()
    assert made.package.format is ModelFormat.LITERT
    assert made.size_bytes() == (made.folder / "model.tflite").stat().st_size


def test_tensorflow_loads_the_savedmodel_and_answers_as_the_litert_file(made: Model, test: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", test.inputs["pixels"][:5])
    code = (
        "import sys, numpy, tensorflow as tf\n"
        "run = tf.saved_model.load(sys.argv[1]).signatures['serving_default']\n"
        "answers = run(pixels=tf.constant(numpy.load(sys.argv[2] + '/rows.npy')))\n"
        "numpy.save(sys.argv[2] + '/answers.npy', answers['logits'])\n"
    )
    command = [tensorflow_python(), "-c", code, made.folder / "saved_model", tmp_path]

    subprocess.run(command, check=True, capture_output=True)

    expected = predictor_of(made, False).predict({"pixels": test.inputs["pixels"][:5]})[0]
    assert np.abs(np.load(tmp_path / "answers.npy") - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_a_server_answers_as_the_optimizer_measured(made: Model, test: Any) -> None:
    served = load_model(made.folder, threads=2)

    assert served.backend.platform == "litert_tflite"
    for rows in (5, 1, 32):
        inputs = {"pixels": test.inputs["pixels"][:rows]}
        assert np.abs(served.run(inputs)["logits"] - predictor_of(made, False).predict(inputs)[0]).max() < 1e-4


@pytest.mark.parametrize(
    ("options", "ratio", "drop"),
    [
        (Quantize(), 0.3, 0.005),
        (STATIC, 0.3, 0.005),
        (Quantize(dtype="int4"), 0.2, 0.01),
        (Quantize(mode="weights"), 0.3, 0.005),
    ],
    ids=["int8 dynamic", "int8 static", "int4", "int8 weights"],
)
def test_fewer_bits_make_the_file_smaller_and_keep_the_answers(
    options: Quantize, ratio: float, drop: float, litert: Model, train: Any, test: Any, work: Callable[..., Workplace]
) -> None:
    data = train if options.calibration else None

    small = quantize(OptimizationPass(quantize=options), litert, work(data=data)).model

    assert small.size_bytes() <= ratio * litert.size_bytes()
    before, after = (predictor_of(model, False).predict(test.inputs)[0] for model in (litert, small))
    assert after.dtype == np.float32
    right = [float((answers.argmax(1) == test.labels).mean()) for answers in (before, after)]
    assert right[1] >= right[0] - drop
    assert load_model(small.folder, threads=1).run({"pixels": test.inputs["pixels"][:3]})["logits"].shape == (3, 10)


def test_what_only_onnx_can_tell_of_layers_is_absent_with_a_note(litert: Model, test: Any, tmp_path: Path) -> None:
    assert "LiteRT" in str(worst_layers(litert, litert, test.inputs))
    assert count_litert_operators(litert.weights)["CONV_2D"] == 2
    assert isinstance(peak_memory(litert, test.inputs, False, tmp_path / "probe"), int)
    assert latency_ratio(litert, litert, test, False, 0) > 0


def test_sparse_weights_of_onnx_become_plain_ones(
    linear_package: Callable[..., Path], work: Callable[..., Workplace], tmp_path: Path
) -> None:
    package = {"inputs": [{"name": "x", "shape": [-1, 256]}], "outputs": [{"name": "y", "shape": [-1, 64]}]}
    code = "from torch import nn\n\n\ndef build():\n    return nn.Linear(256, 64)\n"
    sparse = prune(
        OptimizationPass(prune=Prune(structure="unstructured", amount=0.9)),
        load_package(linear_package(code=code, weights=_weights(code), **package)),
        work("pruned"),
    ).model

    made = _converted(LITERT, sparse, tmp_path)

    rows = {"x": np.random.default_rng(0).standard_normal((3, 256)).astype(np.float32)}
    expected, found = (predictor_of(model, False).predict(rows)[0] for model in (sparse, made))
    assert np.abs(expected - found).max() <= TOLERANCE * max(1.0, float(np.abs(expected).max()))


def test_a_model_beyond_what_a_litert_file_holds_is_refused_before_anything_runs(
    source: Model, work: Callable[..., Workplace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(litert_export, "LARGEST", 1000)

    with pytest.raises(PassFailed, match=r"a LiteRT file ends at 1000; use `convert: \{to: onnx\}`"):
        convert(LITERT, source, work())


def test_without_tensorflow_the_pass_says_what_to_install(
    linear_package: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(INTERPRETER, sys.executable)

    with pytest.raises(MissingTool, match="needs onnx2tf, which is not installed here; install it with `pip install"):
        _converted(LITERT, load_package(linear_package()), tmp_path)


def test_a_python_that_is_none_is_named(
    linear_package: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(INTERPRETER, "/no/python")

    with pytest.raises(MissingTool, match=f"{INTERPRETER} names no Python"):
        _converted(LITERT, load_package(linear_package()), tmp_path)


def test_a_litert_file_is_a_source(litert: Model, tmp_path: Path, test: Any) -> None:
    found = import_source(
        ModelSource(uri="oci://r/m:v1", format=ModelFormat.LITERT), litert.folder, tmp_path / "source"
    )

    assert np.array_equal(*(predictor_of(model, False).predict(test.inputs)[0] for model in (litert, found)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "image"}, r"the signature has the inputs \['pixels'\], model.yaml says \['image'\]"),
        ({"shape": (-1, 63)}, r"input pixels has the shape \[-1, 64\], model.yaml says \[-1, 63\]"),
        ({"datatype": "INT8"}, "input pixels is float32, model.yaml says INT8"),
    ],
)
def test_a_litert_file_that_is_not_what_model_yaml_says_is_refused(
    changes: dict[str, Any], message: str, litert: Model, tmp_path: Path
) -> None:
    (pixels,) = litert.package.inputs
    changed = litert.package.model_copy(update={"inputs": (pixels.model_copy(update=changes),)})
    write_package(litert.folder, changed)

    with pytest.raises(InvalidPackage, match=message):
        import_source(ModelSource(uri="oci://r/m:v1", format=ModelFormat.LITERT), litert.folder, tmp_path / "source")


def test_a_file_that_is_no_litert_is_refused(litert: Model, tmp_path: Path) -> None:
    litert.weights.write_bytes(b"no model")

    with pytest.raises(InvalidPackage, match=r"LiteRT cannot load model\.tflite"):
        import_source(ModelSource(uri="oci://r/m:v1", format=ModelFormat.LITERT), litert.folder, tmp_path / "source")
    with pytest.raises(InvalidPackage, match=r"model\.tflite cannot be loaded"):
        load_model(litert.folder, threads=1)
