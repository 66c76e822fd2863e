"""A cluster of our own with the operator in one namespace: where the benchmarks measure."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import yaml

from install import EXAMPLES, install, manifest_of
from target import Target, own_target
from trimtab_cluster import binaries, lifecycle
from trimtab_cluster.places import Cluster
from trimtab_cluster.state import Shape
from trimtab_testing.clusters import remove_leftovers
from trimtab_testing.operators import Operator

_NAMESPACE = "bench"
_LIMIT_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Installation:
    """The namespace with the operator."""

    target: Target
    namespace: str

    @property
    def operator(self) -> Operator:
        return Operator(self.target, self.namespace)

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """Return what kubectl prints about the namespace."""
        return self.target.kubectl("-n", self.namespace, *arguments, given=given)

    def names(self, kind: str) -> set[str]:
        """Return the names of all objects of a kind."""
        return set(self.kubectl("get", kind, "-o", "name").split())

    def example(self, file: str, **spec: Any) -> dict[str, Any]:
        """Return a ModelDeployment of the digits example with other fields in its spec."""
        manifest: dict[str, Any] = yaml.safe_load(manifest_of(self.target, EXAMPLES / "digits" / file))
        manifest["spec"] |= spec
        return manifest

    def apply(self, manifest: dict[str, Any]) -> int:
        """Apply an object as a user does, and return its generation."""
        applied = self.kubectl("apply", "-o", "json", "-f", "-", given=json.dumps(manifest))
        return int(json.loads(applied)["metadata"]["generation"])

    def status(self, name: str = "digits") -> dict[str, Any]:
        """Return the status of a ModelDeployment."""
        found: dict[str, Any] = self.target.read("-n", self.namespace, "mdeploy", name).get("status", {})
        return found

    def until(self, what: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """Wait until the status of digits is as wanted."""
        deadline = time.monotonic() + _LIMIT_SECONDS
        while not what(status := self.status()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the status stays {status.get('phase')}: {status.get('message')}")
            time.sleep(0.1)
        return status

    def settle(self, manifest: dict[str, Any]) -> str:
        """Apply a ModelDeployment, wait until it is healthy, and return the revision that serves."""
        generation = self.apply(manifest)
        status = self.until(
            lambda found: (found.get("observedGeneration"), found.get("phase")) == (generation, "Healthy")
        )
        return str(status["stableRevision"])

    def forget(self, name: str = "digits") -> None:
        """Delete a ModelDeployment and wait until all it owned is gone; artifacts stay in the registry."""
        self.kubectl("delete", "mdeploy", name, "--ignore-not-found")
        owned = ("-l", f"trimtab.dev/deployment={name}", "--timeout=120s")
        for kind in ("mrev", "job", "deployment", "service", "pod"):
            self.kubectl("wait", "--for=delete", kind, *owned)


@contextmanager
def installed() -> Iterator[Installation]:
    """Bring a cluster up, install the operator, and remove both afterwards."""
    remove_leftovers("bench")
    cluster = Cluster(f"bench-{os.getpid()}")
    try:
        binaries.ready(["helm"])
        lifecycle.up(cluster, Shape(node=True, controllers=True, audit=True))
        target = own_target(cluster)
        install(target, _NAMESPACE)
        yield Installation(target, _NAMESPACE)
    finally:
        lifecycle.down(cluster)
