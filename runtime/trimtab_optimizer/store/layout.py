"""A directory that plays all registries: DIR/<host:port>/<repository> is an OCI image layout. For laptops and tests."""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trimtab_api.contract import canonical_json
from trimtab_api.errors import InvalidPackage
from trimtab_optimizer.store.content import Content, read_chunks, write_hashed
from trimtab_optimizer.store.image import INDEX_TYPE, MANIFEST_TYPE, digest_bytes
from trimtab_optimizer.store.reference import Reference

_TAG = "org.opencontainers.image.ref.name"


class LayoutTransport:
    """Implements images.Transport on OCI image layouts (image-spec 1.1, image-layout.md)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def get_manifest(self, reference: Reference) -> bytes | None:
        """Return the manifest that a reference names, if the layout has it."""
        layout = self._layout(reference)
        digest = reference.digest or _tags(layout).get(reference.tag)
        path = _blob(layout, digest) if digest else None
        return path.read_bytes() if path and path.is_file() else None

    def get_blob(self, reference: Reference, digest: str, target: Path, size: int) -> str | None:
        """Copy a blob to a file."""
        source = _blob(self._layout(reference), digest)
        if not source.is_file():
            return None
        with source.open("rb", buffering=0) as stored, target.open("wb") as output:
            return write_hashed(read_chunks(stored), output)

    def has_blob(self, reference: Reference, digest: str) -> bool:
        """Tell whether the layout has a blob."""
        return _blob(self._layout(reference), digest).is_file()

    def put_blob(self, reference: Reference, content: Content) -> str:
        """Write a blob into the layout."""
        layout = self._layout(reference)
        with _new_file(layout / "blobs" / "sha256") as temporary:
            with temporary.open("wb") as output:
                digest = write_hashed(content.chunks(), output)
            _publish(temporary, _blob(layout, digest))
        return digest

    def put_manifest(self, reference: Reference, manifest: bytes, tags: tuple[str, ...]) -> None:
        """Write the manifest and point tags at it."""
        layout = self._layout(reference)
        digest = digest_bytes(manifest)
        _write(_blob(layout, digest), manifest)
        with _locked(layout):
            entries = [item for item in _entries(layout) if _tag(item) not in tags]
            entries += [_entry(digest, len(manifest), tag) for tag in tags]
            index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}
            _write(layout / "index.json", canonical_json(index).encode())

    def _layout(self, reference: Reference) -> Path:
        return self._directory / reference.host / reference.repository


def _blob(layout: Path, digest: str) -> Path:
    kind, _, value = digest.partition(":")
    if kind != "sha256" or not value.isalnum():
        raise InvalidPackage(f"`{digest}` is not a sha256 digest; push the image again")
    return layout / "blobs" / kind / value


def _entries(layout: Path) -> list[dict[str, Any]]:
    index = layout / "index.json"
    return list(json.loads(index.read_text()).get("manifests", [])) if index.is_file() else []


def _entry(digest: str, size: int, tag: str) -> dict[str, Any]:
    return {"mediaType": MANIFEST_TYPE, "digest": digest, "size": size, "annotations": {_TAG: tag}}


def _tag(entry: dict[str, Any]) -> str | None:
    return (entry.get("annotations") or {}).get(_TAG)


def _tags(layout: Path) -> dict[str, str]:
    return {tag: str(item["digest"]) for item in _entries(layout) if (tag := _tag(item))}


@contextmanager
def _new_file(folder: Path) -> Iterator[Path]:
    """Give a file in the folder where it will be published, so that nobody sees half of it; else it is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".new-", dir=folder)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _write(target: Path, content: bytes) -> None:
    with _new_file(target.parent) as temporary:
        temporary.write_bytes(content)
        _publish(temporary, target)


def _publish(temporary: Path, target: Path) -> None:
    os.chmod(temporary, 0o644)
    os.replace(temporary, target)


@contextmanager
def _locked(layout: Path) -> Iterator[None]:
    """Hold the layout alone; its marker file, which never changes, is what gets locked."""
    marker = layout / "oci-layout"
    if not marker.exists():
        _write(marker, b'{"imageLayoutVersion":"1.0.0"}')
    with marker.open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
