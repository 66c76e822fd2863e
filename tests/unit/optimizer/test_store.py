"""The store over both transports: a directory, and a real registry on loopback."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trimtab_api.errors import DigestMismatch, InvalidPackage, InvalidSpec, SourceNotFound
from trimtab_optimizer.store import ImageStore, Reference, open_store
from trimtab_optimizer.store.extract import Limits
from trimtab_optimizer.store.image import layers_of
from trimtab_optimizer.store.layout import LayoutTransport


@dataclass(frozen=True)
class Place:
    store: ImageStore
    host: str
    blobs: Callable[[], list[Path]]


@pytest.fixture(params=["directory", "registry"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "directory":
        folder = tmp_path / "registries"
        return Place(open_store(directory=folder), "registry.local:5000", lambda: list(folder.rglob("blobs/sha256/*")))
    registry = request.getfixturevalue("registry")
    return Place(
        open_store(insecure=(registry.host,)), registry.host, lambda: list(registry.folder.rglob("blobs/**/data"))
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    (made / "nested").mkdir(parents=True)
    (made / "model.yaml").write_text("name: tiny\n")
    (made / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (made / "nested" / "code.py").write_text("x = 1\n")
    return made


def _content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_pushed_comes_back_by_tag_and_by_digest(place: Place, folder: Path, tmp_path: Path) -> None:
    digest = place.store.push(folder, f"{place.host}/models/tiny", ("v1", "latest"), {"note": "hello"})

    assert place.store.resolve(f"oci://{place.host}/models/tiny:v1") == digest
    assert place.store.pull(f"oci://{place.host}/models/tiny", tmp_path / "by-tag") == digest
    assert place.store.pull(f"oci://{place.host}/models/tiny@{digest}", tmp_path / "by-digest") == digest
    assert _content(tmp_path / "by-tag") == _content(tmp_path / "by-digest") == _content(folder)
    assert place.store.find(f"{place.host}/models/tiny", "v1") == (digest, {"note": "hello"})


def test_what_is_not_there_is_not_found(place: Place, folder: Path, tmp_path: Path) -> None:
    place.store.push(folder, f"{place.host}/models/present", ("v1",), {})

    assert place.store.find(f"{place.host}/models/present", "v2") is None
    assert place.store.find(f"{place.host}/models/absent", "v1") is None
    with pytest.raises(SourceNotFound, match="models/absent:v1 does not exist; push it there or mend the URI"):
        place.store.resolve(f"oci://{place.host}/models/absent:v1")
    with pytest.raises(SourceNotFound, match=f"@sha256:{'0' * 64} does not exist"):
        place.store.pull(f"oci://{place.host}/models/present@sha256:{'0' * 64}", tmp_path / "out")


def test_a_tag_that_moves_is_resolved_anew(place: Place, folder: Path) -> None:
    first = place.store.push(folder, f"{place.host}/models/moving", ("v1",), {})
    (folder / "model.safetensors").write_bytes(b"other")
    second = place.store.push(folder, f"{place.host}/models/moving", ("v1",), {})

    assert first != second
    assert place.store.resolve(f"oci://{place.host}/models/moving:v1") == second
    assert place.store.resolve(f"oci://{place.host}/models/moving:v1@{first}") == first


def test_an_image_can_be_tagged_again_with_other_annotations(place: Place, folder: Path, tmp_path: Path) -> None:
    digest = place.store.push(folder, f"{place.host}/models/again", ("v1",), {})

    other = place.store.retag(f"{place.host}/models/again", digest, ("plan",), {"result": "{}"})

    assert other != digest
    assert place.store.find(f"{place.host}/models/again", "plan") == (other, {"result": "{}"})
    place.store.pull(f"oci://{place.host}/models/again:plan", tmp_path / "out")
    assert _content(tmp_path / "out") == _content(folder)


def test_a_changed_layer_is_refused(place: Place, folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights of " + str(tmp_path).encode())
    place.store.push(folder, f"{place.host}/models/damaged", ("v1",), {})
    layer = next(path for path in place.blobs() if str(tmp_path).encode() in path.read_bytes())
    layer.write_bytes(layer.read_bytes().replace(b"weights of", b"weightz of"))

    with pytest.raises(DigestMismatch, match=r"layer sha256:.* it was changed or damaged; push it again"):
        place.store.pull(f"oci://{place.host}/models/damaged:v1", tmp_path / "out")


def test_a_layer_that_is_too_large_is_not_even_fetched(tmp_path: Path, folder: Path) -> None:
    open_store(directory=tmp_path / "r").push(folder, "registry.local/a", ("v1",), {})
    store = ImageStore(LayoutTransport(tmp_path / "r"), Limits(total_bytes=1000))

    with pytest.raises(InvalidPackage, match=r"a layer of .* bytes, more than 1000"):
        store.pull("oci://registry.local/a:v1", tmp_path / "out")


def test_a_changed_manifest_is_refused_when_asked_for_by_digest(place: Place, folder: Path, tmp_path: Path) -> None:
    name = f"{place.host}/models/forged"
    digest = place.store.push(folder, name, ("v1",), {"origin": str(tmp_path)})
    hexadecimal = digest.removeprefix("sha256:")
    manifest = next(path for path in place.blobs() if hexadecimal in str(path))
    manifest.write_bytes(manifest.read_bytes().replace(b"origin", b"forged"))

    with pytest.raises((DigestMismatch, InvalidPackage)):  # this registry notices itself and answers with an error
        place.store.pull(f"oci://{name}@{digest}", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_same_content_has_the_same_digest_in_every_registry(registry: Any, folder: Path, tmp_path: Path) -> None:
    in_directory = open_store(directory=tmp_path / "registries").push(folder, "registry.local/a", ("v1",), {"k": "v"})
    copy = tmp_path / "copy"
    for path in sorted(folder.rglob("*"), reverse=True):  # another order, another time, another mode
        target = copy / path.relative_to(folder)
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
            target.chmod(0o600)
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "code.pyc").write_bytes(b"cache")

    assert open_store(insecure=(registry.host,)).push(copy, f"{registry.host}/a", ("v1",), {"k": "v"}) == in_directory


def test_an_image_is_one_that_a_kubelet_can_mount(tmp_path: Path, folder: Path) -> None:
    digest = open_store(directory=tmp_path / "r").push(folder, "registry.local/a", ("v1",), {})
    blobs = tmp_path / "r" / "registry.local" / "a" / "blobs" / "sha256"
    manifest = json.loads((blobs / digest.removeprefix("sha256:")).read_bytes())
    config = json.loads((blobs / manifest["config"]["digest"].removeprefix("sha256:")).read_bytes())

    assert manifest["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
    assert [layer["mediaType"] for layer in manifest["layers"]] == ["application/vnd.oci.image.layer.v1.tar"] * 2
    assert (config["architecture"], config["os"]) == ("amd64", "linux")
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]
    for blob in blobs.iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name


def test_a_new_report_does_not_move_the_weights(tmp_path: Path, folder: Path) -> None:
    store = open_store(directory=tmp_path / "r")
    blobs = tmp_path / "r" / "registry.local" / "a" / "blobs" / "sha256"

    def layers(tag: str) -> list[str]:
        digest = store.push(folder, "registry.local/a", (tag,), {})
        manifest = json.loads((blobs / digest.removeprefix("sha256:")).read_bytes())
        return [layer["digest"] for layer in manifest["layers"]]

    before = layers("v1")
    (folder / "report.json").write_text("{}")
    after = layers("v2")

    assert after[0] == before[0]
    assert after[1] != before[1]


def bytes_read() -> int:
    """Return how many bytes this process has read by system calls."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])


def test_what_is_new_is_read_once_and_not_at_all_where_it_was_sent_before(place: Place, tmp_path: Path) -> None:
    size = 32 << 20
    source, again = tmp_path / "large", tmp_path / "again"
    source.mkdir()
    again.mkdir()
    (source / "model.bin").write_bytes(np.random.default_rng().bytes(size))
    os.link(source / "model.bin", again / "model.bin")
    (again / "model.yaml").write_text(f"name: {tmp_path.name}\n")

    start = bytes_read()
    first = place.store.push(source, f"{place.host}/models/large", ("v1",), {}, is_new=True)
    once = bytes_read() - start
    place.store.push(again, f"{place.host}/models/large", ("v2",), {}, is_new=True)
    both = bytes_read() - start

    assert size <= once < 1.1 * size
    assert both - once < 0.1 * size
    assert list(tmp_path.glob("**/*.tar")) == []
    assert place.store.pull(f"oci://{place.host}/models/large:v2", tmp_path / "out")
    assert place.store.resolve(f"oci://{place.host}/models/large:v1") == first
    assert (tmp_path / "out" / "model.bin").read_bytes() == (source / "model.bin").read_bytes()


def test_a_layer_is_the_tar_that_tarfile_writes(tmp_path: Path, folder: Path) -> None:
    long = folder / "nested" / ("a" * 120)
    long.mkdir()
    (long / f"{'b' * 90}.bin").write_bytes(b"")
    (folder / "ünïcode.bin").write_bytes(b"x" * 1000)

    for layer in layers_of(folder):
        written = b"".join(layer.chunks())
        with tarfile.open(fileobj=io.BytesIO(written)) as archive:
            members = archive.getmembers()
            expected = io.BytesIO()
            with tarfile.open(fileobj=expected, mode="w", format=tarfile.PAX_FORMAT) as again:
                for member in members:
                    member.pax_headers = {}
                    again.addfile(member, archive.extractfile(member))
        assert written == expected.getvalue()
        assert len(written) == layer.size


def test_links_are_not_pushed(tmp_path: Path, folder: Path) -> None:
    (folder / "link").symlink_to("/etc/hostname")

    with pytest.raises(InvalidPackage, match="link is a link or a special file; put a plain file there"):
        open_store(directory=tmp_path / "r").push(folder, "registry.local/a", ("v1",), {})


@pytest.mark.parametrize(
    "uri", ["s3://bucket/model", "oci://host", "oci://host/UPPER", "oci://host/a:b:c", "oci://host/../etc", ""]
)
def test_other_uris_are_refused(uri: str) -> None:
    with pytest.raises(InvalidSpec, match="oci://"):
        Reference.parse(uri)


def test_the_store_starts_without_torch_onnx_or_numpy() -> None:
    script = (
        "import sys, trimtab_optimizer.store.registry, trimtab_optimizer.store.layout;"
        "assert not {'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
