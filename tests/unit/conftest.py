"""Models and servers that tests of the server and of the explainer share."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from trimtab_testing.servers import Models, Serve, start


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers: `serve(folder, DRAIN_SECONDS="2")`; `ready=False` where it is not expected to serve."""
    with ExitStack() as stack:
        yield lambda folder, ready=True, **environ: start(stack, folder, environ, ready)
