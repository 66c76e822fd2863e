"""Debian packages: the missing ones are installed, and named while that happens."""

import os
import shutil
import subprocess

from trimtab_cluster.say import say

# A command that shows that the package is there, and the package.
_PACKAGES = {
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "nft": "nftables",
    "ip": "iproute2",
    "docker-registry": "docker-registry",
    "openssl": "openssl",
    "buildah": "buildah",
    "skopeo": "skopeo",
    "mmdebstrap": "mmdebstrap",
    "xz": "xz-utils",
    "conntrack": "conntrack",
}


def missing() -> list[str]:
    """Return the packages whose command is not there."""
    return [package for command, package in _PACKAGES.items() if not shutil.which(command)]


def install_missing() -> None:
    """Install what is missing with apt-get."""
    packages = missing()
    if not packages:
        return
    say(f"installing Debian packages: {' '.join(packages)}")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=quiet)
    # The registry's package starts a service of its own where an init system runs; ours is started by hand.
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    subprocess.run(command, check=True, env=quiet, stdout=subprocess.DEVNULL)
