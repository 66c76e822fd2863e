"""What is under test: our own server with a model for each datatype, or the one that OIP_URL and OIP_MODEL name."""

import os
from collections.abc import Iterator
from contextlib import ExitStack

import grpc
import httpx
import pytest

from served import Served
from trimtab_testing.servers import Models, Serving

_TYPES = (
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
)
_OURS = ("scores", "sums", *(f"echo-{name.lower()}" for name in _TYPES))
NAMED = "OIP_URL" in os.environ


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session", params=[os.environ.get("OIP_MODEL", "?")] if NAMED else _OURS)
def served(models: Models, request: pytest.FixtureRequest) -> Iterator[Served]:
    """Give a server and the model that it is asked for."""
    if NAMED:
        yield Served(os.environ["OIP_URL"].rstrip("/"), os.environ.get("OIP_GRPC"), request.param)
        return
    name: str = request.param
    folders = {"scores": models.scores, "sums": models.two_inputs}
    folder = folders[name]() if name in folders else models.echo(name.partition("-")[2].upper())
    with ExitStack() as stack:
        server = Serving(folder, {"REVISION": "1"})
        stack.callback(server.stop)
        server.started()
        yield Served(server.url, server.grpc, name)


@pytest.fixture
def http(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def channel(served: Served) -> Iterator[grpc.Channel]:
    if served.grpc is None:
        pytest.skip("OIP_GRPC names no address")
    with grpc.insecure_channel(served.grpc) as channel:
        yield channel
