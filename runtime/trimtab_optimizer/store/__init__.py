"""Models, data and artifacts as OCI images: resolve, pull, push, find. Free of torch and onnx, for any program to use.

An image is packed with fixed times, owners and modes (image.py), kept by a transport (registry.py over HTTP, layout.py
in a folder) and unpacked by an extractor that trusts nothing (extract.py). ImageStore (images.py) joins the three.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from trimtab_optimizer.store.images import ImageStore, Transport
from trimtab_optimizer.store.reference import Reference, repository_uri

__all__ = ["ImageStore", "Reference", "Store", "Transport", "open_store", "repository_uri"]


class Store(Protocol):
    """What programs need of a registry. URIs are `oci://host/repository[:tag][@digest]`; a repository has no scheme."""

    def resolve(self, uri: str) -> str:
        """Return the digest a URI stands for now. Raises SourceNotFound."""

    def pull(self, uri: str, folder: Path) -> str:
        """Unpack an image into a new folder and return its digest. Every byte is checked against its digest."""

    def push(
        self,
        folder: Path,
        repository: str,
        tags: tuple[str, ...],
        annotations: Mapping[str, str],
        is_new: bool = False,
    ) -> str:
        """Publish a folder under tags and return its digest; the same content has the same digest.

        What no registry has yet is better sent at once than read first, to ask for its digest: then it `is_new`.
        """

    def retag(self, repository: str, digest: str, tags: tuple[str, ...], annotations: Mapping[str, str]) -> str:
        """Publish an image once more, with other annotations; no layer is read or sent again."""

    def find(self, repository: str, tag: str) -> tuple[str, dict[str, str]] | None:
        """Return digest and annotations of a tag, or None where there is no such tag."""


def open_store(
    insecure: tuple[str, ...] = (), docker_configs: tuple[Path, ...] = (), directory: Path | None = None
) -> ImageStore:
    """Return the store of registries, or of one directory that plays all registries.

    `insecure` names hosts (`host:port`) reached over plain http; `docker_configs` are folders with credentials.
    """
    if directory is not None:
        from trimtab_optimizer.store.layout import LayoutTransport

        return ImageStore(LayoutTransport(directory))
    from trimtab_optimizer.store.registry import RegistryTransport

    return ImageStore(RegistryTransport(insecure, docker_configs))
