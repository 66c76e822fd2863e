"""The cluster that the demo and the end-to-end tests use: one of our own, or one that a person named.

A cluster of somebody else's is used only where TRIMTAB_CONTEXT names its kubeconfig context. The current context of a
kubeconfig is never taken for one: what is installed and deleted here must not meet a cluster by accident.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trimtab_cluster import binaries, images
from trimtab_cluster.errors import ClusterError
from trimtab_cluster.images import Registry
from trimtab_cluster.places import Cluster
from trimtab_cluster.toolchain import find_kubectl

_CONTEXT, _KUBECONFIG = "TRIMTAB_CONTEXT", "TRIMTAB_KUBECONFIG"
_REGISTRY, _KNOWN_AS, _INSECURE = "TRIMTAB_REGISTRY", "TRIMTAB_REGISTRY_KNOWN_AS", "TRIMTAB_REGISTRY_INSECURE"
_IMAGES = "TRIMTAB_IMAGES"


class CommandFailed(RuntimeError):
    """kubectl or helm said no; the text has the command and its complaint."""


@dataclass(frozen=True, slots=True)
class Target:
    """A cluster with a registry. `own` is None for a cluster that a person named."""

    kubeconfig: Path
    context: str
    registry: Registry
    own: Cluster | None = None
    images: Mapping[str, str] | None = None

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """Return what kubectl prints. Raises CommandFailed."""
        return _run([*self.kubectl_command(), *arguments], given)

    def kubectl_command(self) -> list[str]:
        """Return the start of every kubectl command: nothing is left to a current context."""
        return [find_kubectl(), f"--kubeconfig={self.kubeconfig}", f"--context={self.context}"]

    def helm(self, *arguments: str, given: str | None = None) -> str:
        """Return what helm prints. Raises CommandFailed."""
        program = (self.own is None and shutil.which("helm")) or str(binaries.ready(["helm"])["helm"])
        return _run([program, f"--kubeconfig={self.kubeconfig}", f"--kube-context={self.context}", *arguments], given)

    def read(self, *arguments: str) -> dict[str, Any]:
        """Return what `kubectl get ARGUMENTS` finds."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found

    def deliver_images(self, tensorflow: bool = False) -> Mapping[str, str]:
        """Return the project's images by name, after building and copying what is not in the registry yet."""
        wanted = images.IMAGES if tensorflow else images.NEEDED
        return self.images or images.deliver(self.registry, None, wanted)


def own_target(cluster: Cluster) -> Target:
    """Return a cluster that trimtab_cluster brought up."""
    context = str(yaml.safe_load(cluster.kubeconfig.read_text())["current-context"])
    return Target(cluster.kubeconfig, context, images.registry_of(cluster), cluster)


def named_target(environment: Mapping[str, str]) -> Target | None:
    """Return the cluster that the environment names, or None.

    Raises:
        ClusterError: half of what is needed is named, or a context that the kubeconfig does not have.
    """
    named, address = named_context(environment), environment.get(_REGISTRY)
    if named is None:
        return None
    if not address:
        raise ClusterError(
            f"{_CONTEXT} names a cluster, but {_REGISTRY} names no registry",
            f"set {_REGISTRY} to a registry that you may push to and the cluster pulls from, as host[:port][/path]",
        )
    registry = Registry(address, environment.get(_KNOWN_AS) or address, bool(environment.get(_INSECURE)))
    return Target(*named, registry, images=_images(environment.get(_IMAGES)))


def named_context(environment: Mapping[str, str]) -> tuple[Path, str] | None:
    """Return the kubeconfig and the context in it that the environment names, or None.

    Raises:
        ClusterError: a kubeconfig is named without a context, or a context that it does not have.
    """
    named, context = environment.get(_KUBECONFIG), environment.get(_CONTEXT)
    if not context and not named:
        return None
    if not context:
        raise ClusterError(f"{_KUBECONFIG} is set without a context", f"set {_CONTEXT} to the one that may be used")
    path = Path(named or environment.get("KUBECONFIG") or Path.home() / ".kube/config")
    if not path.is_file():
        raise ClusterError(f"{path} is no file", f"set {_KUBECONFIG} to the kubeconfig that has the context {context}")
    known = [str(item["name"]) for item in yaml.safe_load(path.read_text()).get("contexts") or []]
    if context not in known:
        raise ClusterError(f"{path} has no context {context!r}", f"name one of: {', '.join(known) or 'it has none'}")
    return path, context


def _images(text: str | None) -> Mapping[str, str] | None:
    """Read `trimtab-operator=REFERENCE,trimtab-runtime=REFERENCE,trimtab-optimizer=REFERENCE`."""
    if not text:
        return None
    found = dict(word.strip().split("=", 1) for word in text.split(",") if "=" in word)
    if lacking := {image.name for image in images.NEEDED} - set(found):
        raise ClusterError(f"{_IMAGES} does not name {', '.join(sorted(lacking))}", "name all, as NAME=REFERENCE,...")
    return found


def _run(command: list[str], given: str | None) -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, env=_environment())
    if done.returncode:
        shown = " ".join(word for word in command[1:] if not word.startswith("--kube"))
        raise CommandFailed(f"{Path(command[0]).name} {shown[:200]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _environment() -> dict[str, str]:
    """Return the environment without a kubeconfig: what is used is named on the command line."""
    return {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
