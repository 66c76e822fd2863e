"""The project's images: which there are, what goes into each, and how they come into a cluster's registry.

An image is known by the hash of its Dockerfile and of every file that this copies. What was once built stays in the
cache as an OCI layout, so a second run only asks the registry what it lacks.
"""

import hashlib
import json
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trimtab_cluster import building, packages, state
from trimtab_cluster.errors import ClusterError
from trimtab_cluster.locks import locked
from trimtab_cluster.places import REPOSITORY, Cluster, cache_dir
from trimtab_cluster.registry import NAME, PORT
from trimtab_cluster.say import say, timed

_KEPT = 2  # layouts of each image that stay in the cache: this one, and the one before; with CUDA one is 3 GB


@dataclass(frozen=True, slots=True)
class Image:
    """An image by name and the Dockerfile it is built from; the context is the root of the repository."""

    name: str
    dockerfile: str


NEEDED = (
    Image("trimtab-operator", "operator/Dockerfile"),
    Image("trimtab-runtime", "runtime/Dockerfile.runtime"),
    Image("trimtab-optimizer", "runtime/Dockerfile.optimizer"),
)
# It adds a gigabyte and minutes of building to the one before, for plans that make LiteRT models.
TENSORFLOW = Image("trimtab-optimizer-tensorflow", "runtime/Dockerfile.optimizer-tensorflow")
IMAGES = (*NEEDED, TENSORFLOW)


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry by its address from here and by the name under which the cluster pulls; `path` may follow the host."""

    address: str
    known_as: str
    insecure: bool


def registry_of(cluster: Cluster) -> Registry:
    """Return the registry of a cluster of ours.

    Raises:
        ClusterError: the cluster never came up, or came up without a registry.
    """
    record = state.require(cluster)
    if not record.shape.node:
        raise ClusterError(f"{cluster.name} has no registry", "bring it up without --apiserver-only")
    return Registry(f"{record.node}:{PORT}", f"{NAME}:{PORT}", insecure=True)


def deliver(
    registry: Registry, base: str | None, images: Iterable[Image] = IMAGES, root: Path = REPOSITORY
) -> dict[str, str]:
    """Build what the cache lacks, copy it to a registry, and return each image's reference by digest."""
    packages.install_missing(packages.FOR_IMAGES)
    delivered = {}
    with locked(_folder() / ".lock"):
        for image in images:
            tag = tag_of(image, base or building.BASE_RECIPE, root)
            layout = _built(image, tag, base, root)
            _copy(layout, f"{registry.address}/trimtab/{image.name}:{tag}", registry.insecure)
            delivered[image.name] = f"{registry.known_as}/trimtab/{image.name}@{digest_of(layout)}"
    return delivered


def tag_of(image: Image, base: str, root: Path) -> str:
    """Return 12 hex digits of the hash of the base, the Dockerfile and every file that it copies."""
    seen = hashlib.sha256(base.encode())
    for file in sorted(_inputs(image, root)):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        seen.update(f"\n{file.relative_to(root)} {content}".encode())
    return seen.hexdigest()[:12]


def digest_of(layout: Path) -> str:
    """Return the digest of the one image in an OCI layout."""
    return str(json.loads((layout / "index.json").read_text())["manifests"][0]["digest"])


def _inputs(image: Image, root: Path) -> set[Path]:
    dockerfile = root / image.dockerfile
    if not dockerfile.is_file():
        raise ClusterError(f"{image.dockerfile} is not there, from which {image.name} is built", "restore it")
    joined = dockerfile.read_text().replace("\\\n", " ")
    words = [word for line in re.findall(r"^\s*(?:COPY|ADD)\s+(.+)$", joined, re.M) for word in line.split()[:-1]]
    sources = [path for word in words if not word.startswith("--") for path in root.glob(word)]
    below = {file for path in sources for file in path.rglob("*") if "__pycache__" not in file.parts}
    return {file for file in (*sources, *below, dockerfile) if file.is_file()}


def _built(image: Image, tag: str, base: str | None, root: Path) -> Path:
    """Return the image's layout in the cache, after building it where it is not there."""
    layout = _folder() / image.name / tag
    if layout.is_dir():
        return layout
    base = base or building.debian_base()
    with timed(f"building {image.name}:{tag}"):
        building.build(root, image.dockerfile, base, f"localhost/{image.name}:{tag}", layout)
    for old in sorted(layout.parent.iterdir(), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        building.forget(f"localhost/{image.name}:{old.name}", old)
    return layout


def _copy(layout: Path, target: str, insecure: bool) -> None:
    """Copy an image to a registry; layers that are there already do not travel."""
    options = ["--quiet", "--insecure-policy", "--preserve-digests", f"--dest-tls-verify={str(not insecure).lower()}"]
    command = ["skopeo", "copy", *options, f"oci:{layout}", f"docker://{target}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(
            f"{target} could not be copied: {done.stderr.strip()}",
            "is the registry there, and are you logged in to it?",
        )
    say(f"{target} is in the registry")


def _folder() -> Path:
    return cache_dir() / "images"
