"""Pack a folder as an OCI image whose bytes depend on its content alone.

Weights get a layer of their own, before the small files: a report that changes does not move the weights again. Layers
are plain tar, since weights hardly compress and a kubelet unpacks plain tar fastest.
"""

import hashlib
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from trimtab_api.contract import canonical_json
from trimtab_api.errors import InvalidPackage

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar"

_EPOCH = "1970-01-01T00:00:00Z"
_SMALL_FILES = frozenset({".yaml", ".yml", ".json", ".py", ".txt", ".md"})
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes on disk with their digest."""

    path: Path
    digest: str
    size: int

    def descriptor(self, media_type: str) -> dict[str, Any]:
        """Return the OCI descriptor of these bytes."""
        return {"mediaType": media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True, slots=True)
class Image:
    """A packed folder: the manifest and the blobs it names."""

    manifest: bytes
    blobs: tuple[Blob, ...]


def digest_bytes(content: bytes) -> str:
    """Return `sha256:<hex>` of bytes."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def write_manifest(document: Mapping[str, Any], annotations: Mapping[str, str]) -> bytes:
    """Return the bytes of a manifest with these annotations, in canonical form."""
    kept = {key: value for key, value in document.items() if key != "annotations"}
    return canonical_json(kept | ({"annotations": dict(annotations)} if annotations else {})).encode()


def pack(folder: Path, annotations: Mapping[str, str], scratch: Path) -> Image:
    """Pack a folder; the blobs are written to `scratch`. Raises InvalidPackage for links and other special files."""
    layers = [_write_layer(folder, files, scratch / f"layer-{n}.tar") for n, files in enumerate(_split(folder))]
    config = _write_config(layers, scratch / "config.json")
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config.descriptor(CONFIG_TYPE),
        "layers": [layer.descriptor(LAYER_TYPE) for layer in layers],
    }
    return Image(write_manifest(document, annotations), (*layers, config))


def _split(folder: Path) -> list[list[Path]]:
    files = list(_walk(folder))
    if not files:
        raise InvalidPackage(f"there is no file in {folder.name}; a package needs at least a model.yaml or data")
    small = [path for path in files if path.suffix in _SMALL_FILES]
    weights = [path for path in files if path.suffix not in _SMALL_FILES]
    return [group for group in (weights, small) if group]


def _walk(folder: Path) -> Iterable[Path]:
    """Yield the files in an order that no file system changes; caches of Python are no content."""
    for path in sorted(folder.rglob("*"), key=lambda item: item.relative_to(folder).as_posix()):
        if "__pycache__" in path.relative_to(folder).parts:
            continue
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise InvalidPackage(f"{path.relative_to(folder)} is a link or a special file; put a plain file there")
        if path.is_file():
            yield path


def _write_layer(folder: Path, files: list[Path], target: Path) -> Blob:
    parents = {parent for path in files for parent in path.relative_to(folder).parents if parent.name}
    entries = sorted([*parents, *(path.relative_to(folder) for path in files)], key=lambda path: path.as_posix())
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            _add(archive, folder / entry, entry.as_posix())
    return read_blob(target)


def _add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    info = tarfile.TarInfo(name)  # time, owner and group are 0 already
    if path.is_dir():
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(info)
        return
    info.size, info.mode = path.stat().st_size, 0o644
    with path.open("rb") as content:
        archive.addfile(info, content)


def _write_config(layers: list[Blob], target: Path) -> Blob:
    document = {
        "architecture": "amd64",
        "os": "linux",
        "created": _EPOCH,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }
    target.write_text(canonical_json(document))
    return read_blob(target)


def read_blob(path: Path) -> Blob:
    """Return a file with its digest, read in chunks."""
    with path.open("rb") as content:
        return Blob(path, _digest_stream(content), path.stat().st_size)


def _digest_stream(content: IO[bytes]) -> str:
    found = hashlib.sha256()
    while chunk := content.read(_CHUNK):
        found.update(chunk)
    return "sha256:" + found.hexdigest()
