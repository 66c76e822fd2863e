"""The workers under faults of the API server: one object's trouble is its own, and trouble ends by itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import kmock as mock
import pytest
from prometheus_client import CollectorRegistry

from trimtab_api.plan import Plan
from trimtab_api.report import OptimizationResult
from trimtab_operator.controller.reconcile import Context
from trimtab_operator.controller.workers import run_workers
from trimtab_operator.controller.workqueue import Key, WorkQueue
from trimtab_operator.core.observed import Batching, Pod, Sample, Settings
from trimtab_operator.kube.client import ApiServer
from trimtab_operator.kube.events import EventRecorder
from trimtab_operator.telemetry import ControllerMetrics

DEPLOYMENTS = "/apis/trimtab.dev/v1alpha1/namespaces/default/modeldeployments"
OWNED = (
    "/apis/trimtab.dev/v1alpha1/namespaces/default/modelrevisions",
    "/apis/batch/v1/namespaces/default/jobs",
    "/apis/apps/v1/namespaces/default/deployments",
    "/api/v1/namespaces/default/services",
    "/api/v1/namespaces/default/pods",
)


class Nothing:
    """A registry that holds no artifact, and pods that tell no figures."""

    async def find(self, plan: Plan) -> OptimizationResult | None:
        return None

    async def batching(self, pod: Pod) -> Batching | None:
        return None

    async def sample(self, pods: tuple[Pod, ...]) -> Sample | None:
        return None


@asynccontextmanager
async def working(server: ApiServer, *names: str) -> AsyncIterator[WorkQueue]:
    """Run two workers with these objects in the queue."""
    settings = Settings("optimizer", "runtime", "registry.local:5000/trimtab")
    recorder = EventRecorder(server)
    context = Context(server, Nothing(), Nothing(), recorder, settings, lambda: datetime.now(UTC))
    queue = WorkQueue()
    for name in names:
        queue.add(Key("default", name))
    task = asyncio.create_task(run_workers(context, queue, ControllerMetrics(CollectorRegistry()), 2))
    yield queue
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def serve(kmock: mock.RawHandler, *names: str) -> None:
    """Serve ModelDeployments that own nothing yet, and take every write."""
    for name in names:
        kmock[f"get {DEPLOYMENTS}/{name}"] << deployment(name)
    for path in OWNED:
        kmock[f"get {path}"] << {"metadata": {}, "items": []}
    kmock["patch"] << (lambda request: request.data)
    kmock["post"] << (lambda request: request.data)


def deployment(name: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": "default", "uid": name, "generation": 1}
    model = {"uri": f"oci://registry.local:5000/models/{name}:v1", "format": "pytorch"}
    return {"apiVersion": "trimtab.dev/v1alpha1", "kind": "ModelDeployment", "metadata": meta, "spec": {"model": model}}


async def until(condition: Any, seconds: float = 20) -> None:
    """Wait for a condition, with an end in any case."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def statuses(kmock: mock.RawHandler, name: str) -> list[dict[str, Any]]:
    found = [item for item in kmock["patch"] if item.url.path == f"{DEPLOYMENTS}/{name}/status"]
    return [item.data["status"] for item in found]


async def test_a_new_deployment_gets_its_job_and_then_its_status(kmock: mock.RawHandler, server: ApiServer) -> None:
    serve(kmock, "digits")

    async with working(server, "digits"):
        await until(lambda: statuses(kmock, "digits"))

    paths = [item.url.path.rsplit("/", 2)[-2:] for item in kmock["patch"]][:2]
    assert [path[0] for path in paths] == ["jobs", "digits"]
    assert statuses(kmock, "digits")[0]["phase"] == "Pending"


async def test_a_server_that_is_overloaded_for_a_while_is_asked_again_until_it_answers(
    kmock: mock.RawHandler, server: ApiServer
) -> None:
    refusals = iter([429, 500, 503])

    def read(_: mock.Request) -> object:
        status = next(refusals, 200)
        return mock.Response(status=status, payload=deployment("digits") if status == 200 else {"message": "busy"})

    kmock[f"get {DEPLOYMENTS}/digits"] << read
    serve(kmock)

    async with working(server, "digits"):
        await until(lambda: statuses(kmock, "digits"))


async def test_an_object_that_nobody_can_read_delays_no_other(kmock: mock.RawHandler, server: ApiServer) -> None:
    kmock[f"get {DEPLOYMENTS}/poison"] << (lambda _: mock.Response(status=500, payload={"message": "broken"}))
    serve(kmock, *(f"good-{number}" for number in range(8)))

    async with working(server, "poison", *(f"good-{number}" for number in range(8))):
        await until(lambda: all(statuses(kmock, f"good-{number}") for number in range(8)))

    assert not statuses(kmock, "poison")
    assert len([item for item in kmock["get"] if item.url.path.endswith("/poison")]) < 6


async def test_a_missing_permission_is_said_in_the_status_and_the_rest_goes_on(
    kmock: mock.RawHandler, server: ApiServer
) -> None:
    words = 'jobs.batch is forbidden: User "operator" cannot patch resource "jobs"'
    forbidden = mock.Response(status=403, payload={"message": words})
    serve(kmock, "digits")

    def write(request: mock.Request) -> object:
        return forbidden if "/jobs/" in request.url.path else request.data

    kmock["patch"] ** 10 << write

    async with working(server, "digits"):
        await until(lambda: statuses(kmock, "digits"))

    status = statuses(kmock, "digits")[0]
    degraded = next(item for item in status["conditions"] if item["type"] == "Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "Forbidden")
    assert words in degraded["message"]


async def test_a_conflict_is_looked_at_again_at_once(kmock: mock.RawHandler, server: ApiServer) -> None:
    conflicts = iter([409, 409])

    def write(request: mock.Request) -> object:
        status = next(conflicts, 200) if "/jobs/" in request.url.path else 200
        return mock.Response(status=status, payload=request.data if status == 200 else {"message": "changed"})

    kmock["patch"] ** 10 << write
    serve(kmock, "digits")

    async with working(server, "digits"):
        await until(lambda: len([item for item in kmock["patch"] if "/jobs/" in item.url.path]) >= 3, seconds=5)


async def test_a_deployment_that_is_gone_is_forgotten(kmock: mock.RawHandler, server: ApiServer) -> None:
    kmock[f"get {DEPLOYMENTS}/digits"] << (lambda _: mock.Response(status=404, payload={"message": "not found"}))

    async with working(server, "digits") as queue:
        await until(lambda: kmock["get"] and not len(queue))
        await asyncio.sleep(1)

    assert len(kmock["get"]) == 1
    assert not kmock["patch"]


@pytest.mark.parametrize("body", [{"spec": None}, {"spec": {"model": 3}}, {"spec": {"model": {"uri": "x"}, "new": 1}}])
async def test_a_spec_that_no_schema_checked_is_told_and_breaks_nothing(
    kmock: mock.RawHandler, server: ApiServer, body: dict[str, Any]
) -> None:
    kmock[f"get {DEPLOYMENTS}/digits"] << {**deployment("digits"), **body}
    serve(kmock)

    async with working(server, "digits"):
        await until(lambda: statuses(kmock, "digits"))

    degraded = next(item for item in statuses(kmock, "digits")[0]["conditions"] if item["type"] == "Degraded")
    assert degraded["reason"] == "InvalidSpec"
    assert not [item for item in kmock["patch"] if "/jobs/" in item.url.path]
