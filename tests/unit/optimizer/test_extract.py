"""Layers made to break out, to fill the disk or to confuse: none of them writes outside its folder."""

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from trimtab_api.errors import InvalidPackage
from trimtab_optimizer.store.extract import Extractor, Limits

Entry = tuple[tarfile.TarInfo, bytes]


def _entry(name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = "") -> Entry:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content) if kind == tarfile.REGTYPE else 0
    return info, content


@pytest.fixture
def layer(tmp_path: Path) -> Callable[..., Path]:
    def write(*entries: Entry, packed: bool = False) -> Path:
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            for info, data in entries:
                archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
        path = tmp_path / f"layer-{len(list(tmp_path.iterdir()))}"
        path.write_bytes(gzip.compress(content.getvalue()) if packed else content.getvalue())
        return path

    return write


MALICIOUS = {
    "a name that climbs": [_entry("../outside")],
    "a name that climbs from inside": [_entry("a/../../outside")],
    "an absolute name": [_entry("/outside")],
    "a backslash": [_entry("..\\outside")],
    "a symbolic link": [_entry("link", kind=tarfile.SYMTYPE, link="/etc")],
    "a file written through a symbolic link": [
        _entry("link", kind=tarfile.SYMTYPE, link=".."),
        _entry("link/outside"),
    ],
    "a hard link": [_entry("hard", kind=tarfile.LNKTYPE, link="../outside")],
    "a device": [_entry("device", kind=tarfile.CHRTYPE)],
    "a pipe": [_entry("pipe", kind=tarfile.FIFOTYPE)],
    "a file below a file": [_entry("a"), _entry("a/b")],
    "a directory in place of a file": [_entry("a"), _entry("a", kind=tarfile.DIRTYPE)],
    "a file in place of a directory": [_entry("a", kind=tarfile.DIRTYPE), _entry("a")],
    "a whiteout": [_entry(".wh.model.yaml")],
}


@pytest.mark.parametrize("entries", MALICIOUS.values(), ids=MALICIOUS.keys())
def test_a_malicious_layer_is_refused(layer: Callable[..., Path], tmp_path: Path, entries: list[Entry]) -> None:
    home = tmp_path / "home"
    home.mkdir()

    with pytest.raises(InvalidPackage):
        Extractor(home / "model").extract(layer(*entries))

    assert not (tmp_path / "outside").exists()
    assert [path.name for path in home.iterdir()] == ["model"]
    assert not any(path.is_symlink() for path in home.rglob("*"))


def test_an_archive_that_grows_without_end_is_refused(layer: Callable[..., Path], tmp_path: Path) -> None:
    bomb = layer(_entry("zeros", bytes(1 << 20)), packed=True)

    with pytest.raises(InvalidPackage, match="larger than 1000 bytes"):
        Extractor(tmp_path / "model", Limits(total_bytes=1000)).extract(bomb)


def test_sizes_add_up_over_all_layers(layer: Callable[..., Path], tmp_path: Path) -> None:
    extractor = Extractor(tmp_path / "model", Limits(total_bytes=1000))
    extractor.extract(layer(_entry("a", bytes(800))))

    with pytest.raises(InvalidPackage, match="larger than 1000 bytes"):
        extractor.extract(layer(_entry("b", bytes(800))))


def test_too_many_files_are_refused(layer: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InvalidPackage, match="more than 3 files"):
        Extractor(tmp_path / "model", Limits(files=3)).extract(layer(*(_entry(f"f{n}") for n in range(4))))


@pytest.mark.parametrize("content", [b"", b"not a tar", b"\x1f\x8bnot gzip"], ids=["empty", "text", "broken gzip"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "layer").write_bytes(content)

    with pytest.raises(InvalidPackage, match="not a readable tar archive"):
        Extractor(tmp_path / "model").extract(tmp_path / "layer")


def test_a_cut_archive_is_refused(layer: Callable[..., Path], tmp_path: Path) -> None:
    whole = layer(_entry("a", bytes(5000)))
    whole.write_bytes(whole.read_bytes()[:2000])

    with pytest.raises(InvalidPackage, match="not a readable tar archive"):
        Extractor(tmp_path / "model").extract(whole)


def test_layers_of_other_tools_are_taken(layer: Callable[..., Path], tmp_path: Path) -> None:
    extractor = Extractor(tmp_path / "model")
    extractor.extract(layer(_entry("./", kind=tarfile.DIRTYPE), _entry("./a", b"old"), packed=True))
    extractor.extract(layer(_entry("a", b"new")))

    assert (tmp_path / "model" / "a").read_bytes() == b"new"
