"""One real node for all end-to-end tests, with the images in its registry."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab_cluster import checks
from trimtab_cluster.places import REPOSITORY, Cluster
from trimtab_cluster.state import Shape
from trimtab_testing.clusters import run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def road_cluster() -> Iterator[Cluster]:
    """Return a cluster whose environment is set for kubectl, helm and the registry."""
    if lacking := checks.failing(Shape(node=True, controllers=True, audit=True)):
        pytest.skip(f"this machine lacks {', '.join(check.what for check in lacking)}")
    cluster = Cluster(f"road-{os.getpid()}")
    run("build", "helm")
    run("up", "--name", cluster.name, "--audit")
    path = os.environ["PATH"]
    os.environ["KUBECONFIG"] = str(cluster.kubeconfig)
    os.environ["PATH"] = f"{cluster.bin}:{path}"
    os.environ["TRIMTAB_REGISTRY"] = registry_of(cluster)
    yield cluster
    os.environ["PATH"] = path
    run("down", "--name", cluster.name)


def registry_of(cluster: Cluster) -> str:
    """Return the address of the cluster's registry as the command prints it."""
    printed = run("env", "--name", cluster.name)
    line = next(line for line in printed.splitlines() if "TRIMTAB_REGISTRY=" in line)
    return line.partition("TRIMTAB_REGISTRY=")[2].strip("'\"")


@pytest.fixture
def install(road_cluster: Cluster, request: pytest.FixtureRequest) -> str:
    """Install operator and example into a namespace of the test's own, and return its name."""
    namespace = f"road-{hashlib.sha256(request.node.name.encode()).hexdigest()[:8]}"
    command = [sys.executable, str(REPOSITORY / "demo/install.py"), "--name", road_cluster.name]
    subprocess.run([*command, "--namespace", namespace], check=True)
    return namespace
