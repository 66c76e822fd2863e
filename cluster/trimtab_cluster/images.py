"""Images from the project's Dockerfiles without a Docker engine: buildah builds, skopeo copies what changed.

The base is made with mmdebstrap where none can be pulled. What was built is kept as OCI layouts in the cache under the
hash of everything that went in, so that a second run copies only what the cluster's registry lacks.
"""

import hashlib
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from trimtab_cluster import node
from trimtab_cluster.configs import REGISTRY_NAME
from trimtab_cluster.places import REPOSITORY, Cluster, cache_dir
from trimtab_cluster.say import say

_BASE = "localhost/trimtab-base"
_BASE_PACKAGES = "python3,python3-venv,ca-certificates"


class BuildFailed(RuntimeError):
    """A Dockerfile did not build; the text ends with the builder's last lines."""


@dataclass(frozen=True, slots=True)
class Image:
    name: str
    dockerfile: str

    @property
    def tag(self) -> str:
        """Return the hash of the Dockerfile and of every file that it copies."""
        digest = hashlib.sha256(_BASE_PACKAGES.encode())
        for file in sorted(self._inputs()):
            digest.update(str(file.relative_to(REPOSITORY)).encode() + b"\0" + file.read_bytes())
        return digest.hexdigest()[:12]

    def _inputs(self) -> set[Path]:
        text = (REPOSITORY / self.dockerfile).read_text()
        sources = [word for line in re.findall(r"^COPY (.+)$", text, re.M) for word in line.split()[:-1]]
        paths = [REPOSITORY / word for word in sources if not word.startswith("--")]
        nested = {file for path in paths for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
        return nested | {path for path in paths if path.is_file()} | {REPOSITORY / self.dockerfile}


IMAGES = (
    Image("trimtab-operator", "operator/Dockerfile"),
    Image("trimtab-runtime", "runtime/Dockerfile.runtime"),
    Image("trimtab-optimizer", "runtime/Dockerfile.optimizer"),
)


def deliver(cluster: Cluster) -> dict[str, str]:
    """Build what is not in the cache, copy it to the cluster's registry, return each image by digest."""
    delivered = {image.name: _push(cluster, image, _ensure_built(image)) for image in IMAGES}
    (cluster.state / "images.json").write_text(json.dumps(delivered, indent=1))
    return delivered


def _ensure_built(image: Image) -> Path:
    layout = cache_dir() / "images" / image.name / image.tag
    if (layout / "index.json").exists():
        return layout
    base = _ensure_base()
    say(f"building {image.name}:{image.tag}")
    reference = f"localhost/{image.name}:{image.tag}"
    _run(["buildah", "bud", *_build_options(), "--build-arg", f"BASE={base}", "-t", reference, "-f", image.dockerfile, "."])
    partial = layout.with_suffix(".partial")
    _run(["rm", "-rf", str(partial)])
    partial.parent.mkdir(parents=True, exist_ok=True)
    _run(["buildah", "push", "--compression-format", "zstd", "--compression-level", "1", reference, f"oci:{partial}:latest"])
    partial.rename(layout)
    return layout


def _build_options() -> list[str]:
    """Return options by which RUN lines reach package indexes as this machine does, and leave nothing of it inside."""
    options = ["--isolation", "chroot", "--network", "host", "--layers", "--format", "oci"]
    options += ["--volume", "/etc/ssl/certs:/etc/ssl/certs:ro"]
    wheels = os.environ.get("PIP_FIND_LINKS", "")
    folders = [Path(word) for word in wheels.split()] + [REPOSITORY.parent / "shared/wheels"]
    found = next((path for path in folders if path.is_dir() and any(path.glob("*.whl"))), None)
    if found:
        options += ["--volume", f"{found.resolve()}:/wheels:ro", "--env", "PIP_FIND_LINKS=/wheels"]
    pip_cache = cache_dir() / "pip"
    pip_cache.mkdir(parents=True, exist_ok=True)
    return [*options, "--volume", f"{pip_cache}:/root/.cache/pip:rw"]


def _ensure_base() -> str:
    reference = f"{_BASE}:{hashlib.sha256(_BASE_PACKAGES.encode()).hexdigest()[:12]}"
    if subprocess.run(["buildah", "inspect", "--type", "image", reference], capture_output=True).returncode == 0:
        return reference
    archive = cache_dir() / "images/base.tar"
    if not archive.exists():
        _bootstrap(archive)
    container = _run(["buildah", "from", "scratch"]).strip()
    try:
        _run(["buildah", "add", "--quiet", container, str(archive), "/"])
        _run(["buildah", "commit", "--quiet", container, reference])
    finally:
        _run(["buildah", "rm", container])
    return reference


def _bootstrap(archive: Path) -> None:
    say("making a Debian base image with mmdebstrap")
    archive.parent.mkdir(parents=True, exist_ok=True)
    partial = archive.with_name("base.partial.tar")
    command = ["mmdebstrap", "--variant=minbase", f"--include={_BASE_PACKAGES}", "bookworm", str(partial), "-"]
    done = subprocess.run(command, input=_apt_sources(), capture_output=True, text=True)
    if done.returncode:
        raise BuildFailed(f"mmdebstrap failed:\n{done.stderr[-2000:]}")
    partial.rename(archive)


def _apt_sources() -> str:
    """Return the machine's own package sources: no mirror needs naming here."""
    folder = Path("/etc/apt/sources.list.d")
    deb822 = sorted(folder.glob("debian*.sources"))
    return (deb822[0] if deb822 else Path("/etc/apt/sources.list")).read_text()


def _push(cluster: Cluster, image: Image, layout: Path) -> str:
    repository = f"trimtab/{image.name}"
    target = f"docker://{node.node_address(cluster)}:5000/{repository}:{image.tag}"
    digest_file = cluster.state / f"{image.name}.digest"
    copy = ["skopeo", "copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", "--digestfile", str(digest_file)]
    _run([*copy, f"oci:{layout}:latest", target])
    return f"{REGISTRY_NAME}/{repository}@{digest_file.read_text().strip()}"


def _run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise BuildFailed(f"{' '.join(command[:3])} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout
