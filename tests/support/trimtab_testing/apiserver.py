"""A real kube-apiserver with etcd for tests: one for each pytest session, with our resources installed.

The server is made by trimtab_cluster under a name of its own, so sessions side by side do not meet, and what a killed
session left is removed by the next one. No test ever talks to a cluster that happens to be configured on the machine:
the only other server that is taken is one whose context TRIMTAB_CONTEXT names.

A folder of tests gets the fixtures by importing them in its conftest.py:

    from trimtab_testing.apiserver import apiserver, namespace
"""

import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from target import named_context
from trimtab_api.group import API_VERSION, MODEL_DEPLOYMENT
from trimtab_cluster import lifecycle
from trimtab_cluster.places import Cluster
from trimtab_cluster.state import Shape
from trimtab_cluster.toolchain import find_kubectl
from trimtab_testing.clusters import remove_leftovers

REPOSITORY: Final = Path(__file__).resolve().parents[3]
CRDS: Final = REPOSITORY / "crds"

_PUBLISHED_WITHIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command printed."""

    code: int
    out: str
    err: str

    @property
    def complaints(self) -> list[str]:
        """Return what the API server has against the object, one line for each cause."""
        text = self.err.strip().partition(" is invalid: ")[2] or self.err.strip()
        return [line.removeprefix("* ") for line in text.splitlines() if line.strip()]


@dataclass(frozen=True, slots=True)
class ApiServer:
    """A server to test against. `kubeconfig` and `context` are what a client is to load."""

    kubeconfig: Path
    context: str
    program: str
    cache: Path

    def kubectl(self, *arguments: str, stdin: str = "") -> Answer:
        """Run kubectl against this server and no other; a failure is an answer too."""
        named = (f"--kubeconfig={self.kubeconfig}", f"--context={self.context}", f"--cache-dir={self.cache}")
        done = subprocess.run(
            [self.program, *named, *arguments], input=stdin, capture_output=True, text=True, check=False
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def must(self, *arguments: str, stdin: str = "") -> str:
        """Return what kubectl printed. Raises AssertionError with its complaint if it fails."""
        answer = self.kubectl(*arguments, stdin=stdin)
        assert answer.code == 0, f"kubectl {' '.join(arguments)}: {answer.err}"
        return answer.out


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace of one test."""

    server: ApiServer
    name: str

    def kubectl(self, *arguments: str, stdin: str = "") -> Answer:
        """Run kubectl in this namespace; a failure is an answer too."""
        return self.server.kubectl(f"--namespace={self.name}", *arguments, stdin=stdin)

    def must(self, *arguments: str, stdin: str = "") -> str:
        """Return what kubectl printed in this namespace. Raises AssertionError if it fails."""
        return self.server.must(f"--namespace={self.name}", *arguments, stdin=stdin)

    def apply(self, manifest: Mapping[str, Any], *flags: str) -> Answer:
        """Do what `kubectl apply -f` does with a file of this content."""
        return self.kubectl("apply", *flags, "-f", "-", stdin=json.dumps(manifest))

    def read(self, what: str) -> dict[str, Any]:
        """Return an object, such as `mdeploy/digits`, as the server holds it."""
        found: dict[str, Any] = json.loads(self.must("get", what, "-o", "json"))
        return found

    def patch_status(self, what: str, status: Mapping[str, Any]) -> Answer:
        """Write status as the operator does."""
        change = json.dumps({"status": status})
        return self.kubectl("patch", what, "--subresource=status", "--type=merge", "-p", change)


def model_deployment(spec: Mapping[str, Any], name: str = "digits") -> dict[str, Any]:
    """Return the manifest of a ModelDeployment."""
    return {"apiVersion": API_VERSION, "kind": MODEL_DEPLOYMENT, "metadata": {"name": name}, "spec": spec}


@pytest.fixture(scope="session")
def apiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Give the session's API server, with the CRDs of this working tree."""
    cache = tmp_path_factory.mktemp("kubectl")
    with named_or_own(os.environ, cache) as server:
        install_crds(server)
        yield server


@pytest.fixture
def namespace(apiserver: ApiServer) -> Iterator[Namespace]:
    """Give a namespace that no other test uses."""
    with new_namespace(apiserver) as made:
        yield made


@contextmanager
def new_namespace(server: ApiServer) -> Iterator[Namespace]:
    """Make a namespace, and delete it at the end without waiting for that."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    server.must("create", "namespace", name)
    yield Namespace(server, name)
    server.must("delete", "namespace", name, "--wait=false")


@contextmanager
def named_or_own(environment: Mapping[str, str], cache: Path) -> Iterator[ApiServer]:
    """Give the server that the environment names, else one that is made now and removed afterwards."""
    if named := named_context(environment):
        yield ApiServer(*named, find_kubectl(), cache)
        return
    remove_leftovers("test")
    cluster = Cluster(f"test-{os.getpid()}")
    try:
        lifecycle.up(cluster, Shape(node=False, controllers=False, audit=False))
        yield ApiServer(cluster.kubeconfig, _current_context(cluster.kubeconfig), find_kubectl(), cache)
    finally:
        lifecycle.down(cluster)


def install_crds(server: ApiServer) -> None:
    """Install the CRDs of this working tree, and return once kubectl can explain them."""
    server.must("apply", "--server-side", "--force-conflicts", "-f", str(CRDS))
    server.must("wait", "--for=condition=Established", "--timeout=30s", "-f", str(CRDS))
    deadline = time.monotonic() + _PUBLISHED_WITHIN_SECONDS
    # Nothing tells when the OpenAPI document is out, so it is asked for; each question takes kubectl a moment.
    while any(server.kubectl("explain", kind).code for kind in ("modeldeployments", "modelrevisions")):
        assert time.monotonic() < deadline, "the API server does not publish the schema of the CRDs"


def _current_context(kubeconfig: Path) -> str:
    return str(yaml.safe_load(kubeconfig.read_text())["current-context"])
