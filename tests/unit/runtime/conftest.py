"""Servers that many tests of the runtime share."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from trimtab_testing.servers import Models, Serve, Serving, start


@pytest.fixture(scope="session")
def shared() -> Iterator[Serve]:
    """The same server for every test that asks for the same folder and settings, and changes nothing."""
    running: dict[tuple[object, ...], Serving] = {}
    with ExitStack() as stack:

        def get(folder: Path, **environ: str) -> Serving:
            key = (folder, *sorted(environ.items()))
            if key not in running:
                running[key] = start(stack, folder, {"REVISION": "r1"} | environ)
            return running[key]

        yield get


@pytest.fixture
def scores(models: Models, shared: Serve) -> Serving:
    return shared(models.scores())


@pytest.fixture(params=["1", "0"], ids=["fast path", "framework"])
def http(models: Models, shared: Serve, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A client of the same model by both roads: past the web framework, and through it."""
    with httpx.Client(base_url=shared(models.scores(), FAST_PATH=request.param).url) as client:
        yield client
