"""One cluster for all end-to-end tests: a node of our own with the images in its registry, or one that was named."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from install import install, uninstall
from target import Target, named_target, own_target
from trimtab_cluster import binaries, checks, lifecycle
from trimtab_cluster.places import Cluster
from trimtab_cluster.state import Shape
from trimtab_testing.clusters import remove_leftovers
from trimtab_testing.operators import Operator

_NODE = Shape(node=True, controllers=True, audit=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def target() -> Iterator[Target]:
    """Give the cluster."""
    if named := named_target(os.environ):
        yield named
        return
    if lacking := checks.failing(_NODE):
        pytest.skip(f"this machine lacks {', '.join(check.what for check in lacking)}")
    remove_leftovers("road")
    cluster = Cluster(f"road-{os.getpid()}")
    try:
        binaries.ready(["helm"])
        lifecycle.up(cluster, _NODE)
        yield own_target(cluster)
    finally:
        lifecycle.down(cluster)


@pytest.fixture(scope="module")
def with_tensorflow() -> bool:
    """Say whether a module's tests need the image that makes LiteRT models, which takes minutes to build once."""
    return False


@pytest.fixture(scope="module")
def namespace(target: Target, with_tensorflow: bool, request: pytest.FixtureRequest) -> Iterator[str]:
    """Install operator and example into a namespace of the module's own, and give its name."""
    name = f"road-{hashlib.sha256(request.node.name.encode()).hexdigest()[:8]}"
    install(target, name, tensorflow=with_tensorflow)
    yield name
    uninstall(target, name)  # the next module needs the node's CPU


@pytest.fixture(scope="module")
def operator(target: Target, namespace: str) -> Operator:
    return Operator(target, namespace)
