"""The store itself: packs and unpacks images over a transport, and believes no byte whose digest it did not compute."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from trimtab_api.errors import DigestMismatch, InvalidPackage, SourceNotFound
from trimtab_optimizer.store.content import Content
from trimtab_optimizer.store.extract import Extractor, Limits
from trimtab_optimizer.store.image import (
    INDEX_TYPE,
    Blob,
    config_of,
    digest_bytes,
    layers_of,
    manifest_of,
    write_manifest,
)
from trimtab_optimizer.store.reference import Reference, repository_uri

_INDEX_TYPES = frozenset({INDEX_TYPE, "application/vnd.docker.distribution.manifest.list.v2+json"})


class Transport(Protocol):
    """Moves bytes of one kind of registry. Raises Unauthorized and RegistryUnavailable; None stands for not found."""

    def get_manifest(self, reference: Reference) -> bytes | None:
        """Return the manifest that a reference names."""

    def get_blob(self, reference: Reference, digest: str, target: Path, size: int) -> str | None:
        """Write a blob to a file, not much more than `size` bytes. Returns their digest; None where there is none."""

    def has_blob(self, reference: Reference, digest: str) -> bool:
        """Tell whether a blob is there."""

    def put_blob(self, reference: Reference, content: Content) -> str:
        """Store a blob and return its digest."""

    def put_manifest(self, reference: Reference, manifest: bytes, tags: tuple[str, ...]) -> None:
        """Store a manifest under its digest and under tags."""


class ImageStore:
    """Implements store.Store over a transport."""

    def __init__(self, transport: Transport, limits: Limits | None = None) -> None:
        self._transport = transport
        self._limits = limits or Limits()
        self._digests: dict[tuple[object, ...], str] = {}  # of what was sent, by identity

    def resolve(self, uri: str) -> str:
        """Return the digest a URI stands for now. Raises SourceNotFound."""
        return digest_bytes(self._manifest(Reference.parse(uri)))

    def pull(self, uri: str, folder: Path) -> str:
        """Unpack an image into a new folder and return its digest. Raises DigestMismatch and InvalidPackage."""
        reference = Reference.parse(uri)
        manifest = self._manifest(reference)
        extractor = Extractor(folder, self._limits)
        for layer in _layers(self._image_manifest(reference, manifest), reference):
            self._pull_layer(reference, layer, extractor, folder.parent)
        return digest_bytes(manifest)

    def push(
        self,
        folder: Path,
        repository: str,
        tags: tuple[str, ...],
        annotations: Mapping[str, str],
        is_new: bool = False,
    ) -> str:
        """Publish a folder under tags and return its digest."""
        reference = Reference.parse(repository_uri(repository))
        layers = [self._put(reference, content, is_new) for content in layers_of(folder)]
        config = self._put(reference, Content((config_of(layers),)), is_new=False)
        manifest = manifest_of(config, layers, annotations)
        self._transport.put_manifest(reference, manifest, tags)
        return digest_bytes(manifest)

    def retag(self, repository: str, digest: str, tags: tuple[str, ...], annotations: Mapping[str, str]) -> str:
        """Publish an image of the repository once more, with other annotations."""
        reference = Reference.parse(repository_uri(repository, digest=digest))
        manifest = write_manifest(_parse(self._manifest(reference), reference), annotations)
        self._transport.put_manifest(reference, manifest, tags)
        return digest_bytes(manifest)

    def find(self, repository: str, tag: str) -> tuple[str, dict[str, str]] | None:
        """Return digest and annotations of a tag, or None where there is no such tag."""
        reference = Reference.parse(repository_uri(repository, tag=tag))
        manifest = self._transport.get_manifest(reference)
        if manifest is None:
            return None
        return digest_bytes(manifest), dict(_parse(manifest, reference).get("annotations") or {})

    def _put(self, reference: Reference, content: Content, is_new: bool) -> Blob:
        """Store a blob unless it is there. What is new is sent at once: its digest is made as it is read for that."""
        identity = content.identity
        digest = self._digests.get(identity) or (None if is_new else content.digest())
        if digest is None or not self._transport.has_blob(reference, digest):
            digest = self._transport.put_blob(reference, content)
        self._digests[identity] = digest
        return Blob(digest, content.size)

    def _manifest(self, reference: Reference) -> bytes:
        manifest = self._transport.get_manifest(reference)
        if manifest is None:
            raise SourceNotFound(f"{reference} does not exist; push it there or mend the URI")
        if reference.digest and digest_bytes(manifest) != reference.digest:
            raise _mismatch(f"the manifest of {reference}", digest_bytes(manifest))
        return manifest

    def _image_manifest(self, reference: Reference, manifest: bytes) -> dict[str, Any]:
        """Return the manifest with layers; of an index, that of the platform packages are made for."""
        document = _parse(manifest, reference)
        if document.get("mediaType") not in _INDEX_TYPES and "manifests" not in document:
            return document
        chosen = _choose(document.get("manifests") or [], reference)
        return _parse(self._manifest(reference.at(chosen)), reference)

    def _pull_layer(self, reference: Reference, layer: Mapping[str, Any], extractor: Extractor, scratch: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=".pull-", dir=scratch) as folder:
            target = Path(folder) / "layer"
            digest, size = str(layer["digest"]), int(layer["size"])
            if size > self._limits.total_bytes:
                raise InvalidPackage(f"a layer of {reference} has {size} bytes, more than {self._limits.total_bytes}")
            found = self._transport.get_blob(reference, digest, target, size)
            if found is None:
                raise SourceNotFound(f"layer {digest} of {reference} does not exist; push the image again")
            if found != digest or target.stat().st_size != size:
                raise _mismatch(f"layer {digest} of {reference}", found)
            extractor.extract(target)


def _parse(manifest: bytes, reference: Reference) -> dict[str, Any]:
    try:
        document = json.loads(manifest)
    except ValueError as error:
        raise InvalidPackage(f"the manifest of {reference} is not JSON ({error}); push it again") from error
    if not isinstance(document, dict):
        raise InvalidPackage(f"the manifest of {reference} is not an object; push it again")
    return document


def _layers(document: Mapping[str, Any], reference: Reference) -> list[Mapping[str, Any]]:
    layers = document.get("layers")
    if not isinstance(layers, list) or not all(isinstance(item, dict) and _is_layer(item) for item in layers):
        raise InvalidPackage(f"{reference} is not an OCI image with layers; push the folder with `trimtab push`")
    return layers


def _is_layer(item: Mapping[str, Any]) -> bool:
    return isinstance(item.get("digest"), str) and isinstance(item.get("size"), int)


def _choose(manifests: list[Any], reference: Reference) -> str:
    images = [item for item in manifests if isinstance(item, dict) and _is_layer(item)]
    fitting = [item for item in images if (item.get("platform") or {}).get("architecture") in (None, "amd64")]
    if not fitting:
        raise InvalidPackage(f"{reference} is an index without a linux/amd64 image; push the folder as one image")
    return str(fitting[0]["digest"])


def _mismatch(what: str, found: str) -> DigestMismatch:
    return DigestMismatch(f"{what} has the digest {found}: it was changed or damaged; push it again from the original")
