"""An artifact that does not do what its model.yaml says is found before anybody calls it."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from trimtab_api.errors import InvalidPackage
from trimtab_runtime.model.cpus import available_cpus
from trimtab_runtime.model.session import load_model


def tensor(name: str, datatype: str, *shape: int) -> list[dict[str, Any]]:
    return [{"name": name, "datatype": datatype, "shape": list(shape)}]


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        ({"inputs": tensor("z", "FP32", -1, 3)}, r"names the inputs \['z'\]; model.onnx has \['x'\]"),
        ({"outputs": tensor("z", "FP32", -1, 2)}, r"names the outputs \['z'\]; model.onnx has \['y'\]"),
        ({"inputs": tensor("x", "FP64", -1, 3)}, r"input x is FP64 \[-1, 3\] in model.yaml, but FP32 \[-1, 3\]"),
        ({"inputs": tensor("x", "FP32", -1, 4)}, r"input x is FP32 \[-1, 4\] in model.yaml, but FP32 \[-1, 3\]"),
        ({"inputs": tensor("x", "FP32", -1, -1)}, r"input x is FP32 \[-1, -1\]"),
        ({"inputs": tensor("x", "FP32", -1)}, r"input x is FP32 \[-1\]"),
        ({"outputs": tensor("y", "INT64", -1, 2)}, r"output y is INT64 \[-1, 2\]"),
        ({"outputs": tensor("y", "FP32", -1, 5)}, r"output y is FP32 \[-1, 5\]"),
        ({"outputs": tensor("y", "FP32", -1)}, r"output y is FP32 \[-1\]"),
        ({"inputs": tensor("x", "FP32", 1, 3)}, "the first axis of x is the batch"),
        ({"format": "tarball"}, "model.yaml cannot be read: format"),
        ({"colour": "blue"}, "model.yaml cannot be read: colour"),
    ],
)
def test_a_model_that_disagrees_with_its_manifest_is_refused(models: Any, manifest: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidPackage, match=told):
        load_model(models.scores("disagrees", **manifest), threads=1)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidPackage, match=r"model.yaml cannot be read"):
        load_model(tmp_path, threads=1)


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_a_file_that_is_no_model_is_refused(models: Any, content: bytes) -> None:
    folder = models.scores("broken")
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(InvalidPackage, match=r"model.onnx cannot be loaded"):
        load_model(folder, threads=1)


def test_a_model_that_takes_one_row_only_is_refused(models: Any) -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    shape = ("FP32", (-1, 2))
    folder = models.write("single", nodes, {"x": shape}, {"y": shape}, {"shape": np.array([1, 2])})
    with pytest.raises(InvalidPackage, match="cannot compute 2 rows of zeros"):
        load_model(folder, threads=1)


def test_an_output_without_the_batch_in_front_is_refused(models: Any) -> None:
    nodes = [helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0])]
    folder = models.write("turned", nodes, {"x": ("FP32", (-1, 3))}, {"y": ("FP32", (-1, -1))})
    with pytest.raises(InvalidPackage, match=r"gives FP32 \[3, 1\] for 1 rows"):
        load_model(folder, threads=1)


def test_free_axes_are_warmed_up_with_a_length_that_the_model_can_take(models: Any) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3])]
    kernel = {"w": np.ones((1, 1, 3), dtype=np.float32)}
    shape = ("FP32", (-1, 1, -1))
    model = load_model(models.write("convolution", nodes, {"x": shape}, {"y": shape}, kernel), threads=1)
    assert model.run({"x": np.ones((1, 1, 3), dtype=np.float32)})["y"].tolist() == [[[3.0]]]


def test_a_manifest_may_promise_less_than_the_model_takes(models: Any) -> None:
    folder = models.echo("FP32")
    manifest = folder / "model.yaml"
    narrowed = models.root / "narrow"
    narrowed.mkdir()
    (narrowed / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    (narrowed / "model.yaml").write_text(manifest.read_text().replace("- -1\n  - -1", "- -1\n  - 7"))
    assert load_model(narrowed, threads=1).package.inputs[0].shape == (-1, 7)


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "20000 100000"}, 1),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu.max": "900000000 100000"}, None),
        ({}, None),
    ],
)
def test_threads_follow_the_limit_of_the_cgroup(tmp_path: Path, files: dict[str, str], cpus: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    machine = available_cpus(tmp_path / "nothing")
    assert available_cpus(tmp_path) == (cpus or machine)


def with_sums(folder: Path) -> Path:
    """Write the digests of the files, as an optimizer or a person does."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "SHA256SUMS")
    done = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, text=True, check=True)
    (folder / "SHA256SUMS").write_text(done.stdout)
    return folder


def test_files_that_are_as_their_digests_say_are_loaded(models: Any) -> None:
    assert load_model(with_sums(models.scores("sound")), threads=1).package.labels == ("cat", "dog")


def test_a_model_whose_bytes_changed_is_refused_though_it_could_be_loaded(models: Any) -> None:
    folder = with_sums(models.scores("worn"))
    content = bytearray((folder / "model.onnx").read_bytes())
    content[content.index(np.float32(5).tobytes())] ^= 1  # a bit of a weight
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(InvalidPackage, match=r"model.onnx has the digest sha256:.*pull the artifact again"):
        load_model(folder, threads=1)


def test_a_model_that_cannot_be_loaded_for_its_damage_is_told_of_as_damaged(models: Any) -> None:
    folder = with_sums(models.scores("cut"))
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:50])
    with pytest.raises(InvalidPackage, match=r"model.onnx has the digest"):
        load_model(folder, threads=1)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("0" * 64 + "  nothing.bin", "nothing.bin is in SHA256SUMS, but cannot be read"),
        ("0" * 64 + "  ../model.onnx", "has to be as sha256sum writes it"),
        ("0" * 64 + "  /etc/passwd", "has to be as sha256sum writes it"),
        ("model.onnx", "has to be as sha256sum writes it"),
    ],
)
def test_digests_that_are_none_of_this_folder_are_refused(models: Any, line: str, told: str) -> None:
    folder = models.scores("odd")
    (folder / "SHA256SUMS").write_text(line + "\n")
    with pytest.raises(InvalidPackage, match=told):
        load_model(folder, threads=1)
    (folder / "SHA256SUMS").unlink()
