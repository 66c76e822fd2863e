"""Real clusters, brought up by the command as a person would; each test has a name of its own for what it starts."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trimtab_cluster import checks
from trimtab_cluster.places import Cluster
from trimtab_cluster.state import Shape
from trimtab_testing.clusters import run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session", autouse=True)
def _able_machine() -> None:
    if lacking := checks.failing(Shape(node=True, controllers=True, audit=False)):
        pytest.skip(f"this machine lacks {', '.join(check.what for check in lacking)}")


@pytest.fixture
def new_cluster() -> Iterator[Callable[[str], Cluster]]:
    made: list[Cluster] = []

    def new(name: str) -> Cluster:
        made.append(Cluster(f"{name}-{os.getpid()}"))
        return made[-1]

    yield new
    for cluster in made:
        run("down", "--name", cluster.name)


@pytest.fixture(scope="module")
def node_cluster() -> Iterator[Cluster]:
    cluster = Cluster(f"node-{os.getpid()}")
    run("up", "--name", cluster.name)
    yield cluster
    run("down", "--name", cluster.name)
