"""A server that says what a test tells it to, under our real clients: faults that a healthy server does not show."""

from collections.abc import AsyncIterator
from typing import Any

import kmock as mock
import pytest
from kubernetes.aio.client import ApiClient, Configuration

from trimtab_operator.kube.client import ApiServer


@pytest.fixture
def kmock_options() -> dict[str, Any]:
    """Let the mock server know nothing but what a test tells it: no objects of its own."""
    return {"cls": mock.RawHandler}


@pytest.fixture
async def api(kmock: mock.RawHandler) -> AsyncIterator[ApiClient]:
    """Give the generated client, pointed at the mock server."""
    async with ApiClient(Configuration(host=str(kmock.url))) as client:
        yield client


@pytest.fixture
def server(api: ApiClient) -> ApiServer:
    """Give the operator's own client of it."""
    return ApiServer(api)
