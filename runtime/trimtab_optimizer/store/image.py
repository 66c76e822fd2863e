"""Pack a folder as an OCI image whose bytes depend on its content alone.

Weights get a layer of their own, before the small files: a report that changes does not move the weights again. Layers
are plain tar, since weights hardly compress and a kubelet unpacks plain tar fastest.
"""

import hashlib
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trimtab_api.contract import canonical_json
from trimtab_api.errors import InvalidPackage
from trimtab_optimizer.store.content import Content, Section, Stored

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar"

_EPOCH = "1970-01-01T00:00:00Z"
_SMALL_FILES = frozenset({".yaml", ".yml", ".json", ".py", ".txt", ".md"})
_END = 2 * tarfile.BLOCKSIZE  # zeros, after the last entry


@dataclass(frozen=True, slots=True)
class Blob:
    """Digest and size of bytes that a registry holds."""

    digest: str
    size: int

    def descriptor(self, media_type: str) -> dict[str, Any]:
        """Return the OCI descriptor of these bytes."""
        return {"mediaType": media_type, "digest": self.digest, "size": self.size}


def digest_bytes(content: bytes) -> str:
    """Return `sha256:<hex>` of bytes."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def write_manifest(document: Mapping[str, Any], annotations: Mapping[str, str]) -> bytes:
    """Return the bytes of a manifest with these annotations, in canonical form."""
    kept = {key: value for key, value in document.items() if key != "annotations"}
    return canonical_json(kept | ({"annotations": dict(annotations)} if annotations else {})).encode()


def layers_of(folder: Path) -> list[Content]:
    """Return the layers of a folder. Raises InvalidPackage for links and other special files."""
    return [_layer(folder, files) for files in _split(folder)]


def config_of(layers: Sequence[Blob]) -> bytes:
    """Return the configuration of an image."""
    document = {
        "architecture": "amd64",
        "os": "linux",
        "created": _EPOCH,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }
    return canonical_json(document).encode()


def manifest_of(config: Blob, layers: Sequence[Blob], annotations: Mapping[str, str]) -> bytes:
    """Return the bytes of a manifest."""
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config.descriptor(CONFIG_TYPE),
        "layers": [layer.descriptor(LAYER_TYPE) for layer in layers],
    }
    return write_manifest(document, annotations)


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


def _layer(folder: Path, files: list[Path]) -> Content:
    """Return some files of a folder, and the folders that they are in, as tar."""
    parents = {parent for path in files for parent in path.relative_to(folder).parents if parent.name}
    entries = sorted([*parents, *(path.relative_to(folder) for path in files)], key=lambda path: path.as_posix())
    sections = [section for entry in entries for section in _entry(folder / entry, entry.as_posix())]
    length = Content(tuple(sections)).size + _END
    return Content((*sections, bytes(_END + -length % tarfile.RECORDSIZE)))


def _entry(path: Path, name: str) -> Iterator[Section]:
    info = tarfile.TarInfo(name)  # time, owner and group are 0 already
    if path.is_dir():
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        yield info.tobuf(tarfile.PAX_FORMAT)
        return
    info.size, info.mode = path.stat().st_size, 0o644
    yield info.tobuf(tarfile.PAX_FORMAT)
    yield Stored(path, info.size)
    yield bytes(-info.size % tarfile.BLOCKSIZE)
