"""Models and servers, as the tests of the runtime have them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from trimtab_testing.servers import Models, Serving

Serve = Callable[..., Serving]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers: `serve(folder, EXPLAINER="process")`."""
    with ExitStack() as stack:

        def start(folder: Path, **environ: str) -> Serving:
            serving = Serving(folder, environ)
            stack.callback(serving.stop)
            return serving.started()

        yield start
