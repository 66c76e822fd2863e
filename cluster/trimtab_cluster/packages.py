"""Debian packages: the missing ones are installed, and named while that happens."""

import os
import shutil
import subprocess

from trimtab_cluster.errors import ClusterError
from trimtab_cluster.say import timed

# For each package a command of its own, or a file where it has none on the path.
FOR_APISERVER = {"openssl": "openssl", "iproute2": "ip", "util-linux": "nsenter", "procps": "sysctl", "xz-utils": "xz"}
FOR_NODE = {
    **FOR_APISERVER,
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/ptp",
    "nftables": "nft",
    "docker-registry": "docker-registry",
}
FOR_IMAGES = {**FOR_NODE, "buildah": "buildah", "skopeo": "skopeo", "mmdebstrap": "mmdebstrap"}


def missing(packages: dict[str, str]) -> list[str]:
    """Return the packages whose command is not there."""
    return [package for package, command in packages.items() if not shutil.which(command)]


def install_missing(packages: dict[str, str]) -> None:
    """Install what is missing.

    Raises:
        ClusterError: this machine has no apt-get, or that failed.
    """
    lacking = missing(packages)
    if not lacking:
        return
    names = " ".join(lacking)
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise ClusterError(f"these packages are missing: {names}", "install them (here apt-get or root is lacking)")
    with timed(f"installing Debian packages: {names}"):
        _apt_get("update")
        _apt_get("install", "-y", "--no-install-recommends", *lacking)
    if "docker-registry" in lacking and shutil.which("systemctl"):
        # The package starts a service on port 5000 of the machine; each cluster has a registry of its own.
        subprocess.run(["systemctl", "disable", "--now", "docker-registry"], check=False, capture_output=True)


def _apt_get(*arguments: str) -> None:
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(["apt-get", "-qq", *arguments], check=False, env=quiet, stdout=subprocess.DEVNULL)
    if done.returncode:
        raise ClusterError(f"apt-get {arguments[0]} failed", "see the lines above")
