"""Building from Dockerfiles without a Docker engine: buildah, with a storage of its own in the cache.

A storage of its own, so that nothing is mixed with images of the user's and the mounts that buildah leaves can be
removed. RUN lines reach package indexes as this machine does; of its ways nothing stays in an image.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from trimtab_cluster.errors import ClusterError
from trimtab_cluster.places import REPOSITORY, RUNTIME, cache_dir
from trimtab_cluster.say import timed

BASE_RECIPE = "bookworm minbase python3,python3-venv,ca-certificates"
_CERTIFICATES = Path("/etc/ssl/certs")
_WHEELS = ("/mnt", "/media")  # empty folders of every Debian image, so that the mounts leave no trace


def build(context: Path, dockerfile: str, base: str, reference: str, layout: Path) -> None:
    """Build a Dockerfile and write the image as an OCI layout, which appears only when it is complete."""
    flags = ["--isolation", "chroot", "--network", "host", "--layers", "--force-rm", "--format", "oci"]
    flags += ["--ignorefile", str(REPOSITORY / "cluster/images.dockerignore"), "--build-arg", f"BASE={base}"]
    partial = layout.with_name(f"{layout.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    _clean_up()
    try:
        _buildah("bud", *flags, *_mounts(), "--tag", reference, "--file", str(context / dockerfile), str(context))
        # Fast zstd: half the time of gzip here, and containerd unpacks it faster too.
        fast = ["--compression-format", "zstd", "--compression-level", "1"]
        _buildah("push", "--quiet", *fast, reference, f"oci:{partial}")
    finally:
        _clean_up()
    partial.rename(layout)


def debian_base() -> str:
    """Return the reference of the base image; it is made from the machine's own package sources where it is lacking."""
    reference = f"localhost/trimtab-base:{hashlib.sha256(BASE_RECIPE.encode()).hexdigest()[:12]}"
    if _exists(reference):
        return reference
    archive = cache_dir() / f"images/base-{reference.rpartition(':')[2]}.tar"
    if not archive.exists():
        _bootstrap(archive)
    container = _buildah("from", "scratch").strip()
    try:
        _buildah("add", "--quiet", container, str(archive), "/")
        _buildah("commit", "--quiet", container, reference)
    finally:
        _buildah("rm", container)
        _clean_up()
    return reference


def forget(reference: str, layout: Path) -> None:
    """Remove an image from the cache."""
    shutil.rmtree(layout)
    if _exists(reference):
        _buildah("rmi", reference)
        _clean_up()


def _mounts() -> list[str]:
    """Return the volumes of RUN lines: certificates, the cache and the configuration of pip, folders of wheels."""
    pip = cache_dir() / "pip"
    (pip / "cache").mkdir(parents=True, exist_ok=True)
    (pip / "config").mkdir(exist_ok=True)
    folders = dict(zip(_WHEELS, wheel_folders(), strict=False))
    (pip / "config/pip.conf").write_text(pip_config(list(folders)))
    volumes = {pip / "config": "/etc/xdg/pip:ro", pip / "cache": "/srv:rw"}
    volumes |= {folder: f"{place}:ro" for place, folder in folders.items()}
    if _CERTIFICATES.is_dir():
        volumes[_CERTIFICATES] = f"{_CERTIFICATES}:ro"
    return [flag for source, target in volumes.items() for flag in ("--volume", f"{source}:{target}")]


def pip_config(wheels: Sequence[str]) -> str:
    """Return pip's configuration for RUN lines. A file, as an environment variable would stay in the image."""
    lines = ["[global]", "cache-dir = /srv", "timeout = 180"]
    return "\n".join(lines + ([f"find-links = {' '.join(wheels)}"] if wheels else [])) + "\n"


def wheel_folders() -> list[Path]:
    """Return the folders of wheels that this machine names, if there is any wheel in them."""
    named = [Path(word) for word in os.environ.get("PIP_FIND_LINKS", "").split()]
    folders = [*named, REPOSITORY.parent / "shared/wheels"]
    return [folder.resolve() for folder in folders if folder.is_dir() and any(folder.glob("*.whl"))]


def _bootstrap(archive: Path) -> None:
    suite, variant, include = BASE_RECIPE.split()
    partial = archive.with_name(f"partial-{archive.name}")
    partial.unlink(missing_ok=True)
    command = ["mmdebstrap", "--quiet", f"--variant={variant}", f"--include={include}", suite, str(partial), "-"]
    with timed("making the base image"):
        done = subprocess.run(command, input=_package_sources(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(
            f"mmdebstrap failed:\n{done.stderr[-2000:]}", "see above, or name a base: images --base IMAGE"
        )
    partial.rename(archive)


def _package_sources() -> str:
    """Return the machine's own package sources, so that no mirror needs naming."""
    found = [*sorted(Path("/etc/apt/sources.list.d").glob("debian*.sources")), Path("/etc/apt/sources.list")]
    sources = next((file.read_text() for file in found if file.is_file()), "")
    if not sources:
        raise ClusterError("this machine names no Debian package sources", "name a base: images --base IMAGE")
    return sources


def _exists(reference: str) -> bool:
    return subprocess.run(_command("inspect", "--type", "image", reference), capture_output=True).returncode == 0


def _clean_up() -> None:
    """Remove what buildah leaves: containers of a build that was cut off, and the mount of its storage on itself."""
    _buildah("rm", "--all")
    storage = f"{_storage()}/"
    places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    if ours := [place for place in places if place.startswith(storage)]:
        subprocess.run(["umount", "--lazy", *reversed(ours)], check=False)


def _buildah(*arguments: str) -> str:
    done = subprocess.run(_command(*arguments), capture_output=True, text=True, check=False)
    if done.returncode:
        output = (done.stdout + done.stderr)[-4000:]
        raise ClusterError(f"buildah {arguments[0]} failed:\n{output}", "see the lines above")
    return done.stdout


def _command(*arguments: str) -> list[str]:
    return ["buildah", "--root", str(_storage()), "--runroot", str(RUNTIME / ".buildah"), *arguments]


def _storage() -> Path:
    return cache_dir() / "buildah"
