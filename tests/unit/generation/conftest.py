"""One trained model for all tests of generation, and servers of it."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from trimtab_runtime.generation.folder import Folder, read_folder
from trimtab_runtime.generation.words import Words
from trimtab_testing.counting import counting_folder
from trimtab_testing.servers import Serving, start


@pytest.fixture(scope="session")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that counts."""
    return counting_folder(tmp_path_factory.mktemp("counting"))


@pytest.fixture(scope="session")
def folder(counting: Path) -> Folder:
    return read_folder(counting)


@pytest.fixture(scope="session")
def words(folder: Folder) -> Words:
    return Words(folder)


@pytest.fixture(scope="session")
def server(counting: Path) -> Iterator[Serving]:
    """A server that all tests share, which change nothing."""
    with ExitStack() as stack:
        yield start(stack, counting, {"REVISION": "r1"})
