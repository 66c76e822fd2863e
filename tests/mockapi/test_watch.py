"""The watch: what happens to an object becomes its key, also after streams that end, break or grow too old."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import kmock as mock
import pytest
import yaml

from trimtab_operator.controller.workqueue import Key
from trimtab_operator.watch.operator import watch

DEPLOYMENTS = "trimtab.dev/v1alpha1/modeldeployments"
WATCHED = (
    DEPLOYMENTS,
    "trimtab.dev/v1alpha1/modelrevisions",
    "batch/v1/jobs",
    "apps/v1/deployments",
    "v1/services",
    "v1/pods",
)
KNOWN = ("v1/namespaces", "apiextensions.k8s.io/v1/customresourcedefinitions")  # kopf waits until it has seen these


@pytest.fixture
def kmock_options() -> dict[str, Any]:
    """Let the mock server answer discovery by itself."""
    return {"cls": mock.KubernetesScaffold}


@pytest.fixture
def seen(kmock: mock.KubernetesScaffold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Key]:
    """Prepare the server and the way to it; return the list into which the watch puts its keys."""
    for name in (*WATCHED, *KNOWN):
        kmock.resources[name] = {"namespaced": name in WATCHED, "verbs": ["list", "watch", "get", "patch"]}
        kmock["list", mock.resource(name)] << {"metadata": {"resourceVersion": "1"}, "items": []}
        kmock["watch", mock.resource(name)] << (b"", ...)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "mock",
        "clusters": [{"name": "mock", "cluster": {"server": str(kmock.url)}}],
        "users": [{"name": "mock", "user": {"token": "none"}}],
        "contexts": [{"name": "mock", "context": {"cluster": "mock", "user": "mock"}}],
    }
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(file))
    return []


@asynccontextmanager
async def watching(seen: list[Key]) -> AsyncIterator[None]:
    task = asyncio.create_task(watch(seen.append, ("default",)))
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def deployment(name: str, generation: int = 1, **status: Any) -> dict[str, Any]:
    meta = {
        "name": name,
        "namespace": "default",
        "uid": name,
        "generation": generation,
        "resourceVersion": str(generation),
    }
    return {"apiVersion": "trimtab.dev/v1alpha1", "kind": "ModelDeployment", "metadata": meta, "status": status}


def pod_of(owner: str) -> dict[str, Any]:
    labels = {"trimtab.dev/deployment": owner, "app.kubernetes.io/managed-by": "trimtab"}
    meta = {"name": "p", "namespace": "default", "uid": "p", "resourceVersion": "1", "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta}


async def until_seen(seen: list[Key], *names: str, seconds: float = 8) -> None:
    async with asyncio.timeout(seconds):
        while not {Key("default", name) for name in names} <= set(seen):
            await asyncio.sleep(0.05)


async def test_what_is_there_and_what_comes_are_both_keys(kmock: mock.KubernetesScaffold, seen: list[Key]) -> None:
    listed = {"metadata": {"resourceVersion": "1"}, "items": [deployment("old")]}
    kmock["list", mock.resource(DEPLOYMENTS)] ** 10 << listed
    kmock["watch", mock.resource(DEPLOYMENTS)] ** 10 << ({"type": "ADDED", "object": deployment("new")}, ...)

    async with watching(seen):
        await until_seen(seen, "old", "new")


async def test_a_pod_is_a_key_of_its_owner(kmock: mock.KubernetesScaffold, seen: list[Key]) -> None:
    kmock["watch", mock.resource("v1/pods")] ** 10 << ({"type": "MODIFIED", "object": pod_of("digits")}, ...)

    async with watching(seen):
        await until_seen(seen, "digits")


async def test_only_objects_of_ours_are_asked_for(kmock: mock.KubernetesScaffold, seen: list[Key]) -> None:
    kmock["watch", mock.resource("v1/pods")] ** 10 << ({"type": "MODIFIED", "object": pod_of("digits")}, ...)

    async with watching(seen):
        await until_seen(seen, "digits")

    asked = [request.params for request in kmock[mock.resource("v1/pods")]]
    assert {params.get("labelSelector") for params in asked} == {"app.kubernetes.io/managed-by=trimtab"}


@pytest.mark.parametrize(
    "end",
    [
        pytest.param((), id="ends"),
        pytest.param(
            ({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}},), id="is too old"
        ),
        pytest.param((ConnectionResetError(),), id="breaks"),
    ],
)
async def test_a_watch_that_does_not_go_on_is_begun_again(
    kmock: mock.KubernetesScaffold, seen: list[Key], end: tuple[object, ...]
) -> None:
    streams = iter(["first", "second"])

    def stream(_: mock.Request) -> object:
        name = next(streams, "later")
        event = {"type": "ADDED", "object": deployment(name)}
        return (event, *end) if name == "first" else (event, lambda: asyncio.sleep(60))

    kmock["watch", mock.resource(DEPLOYMENTS)] ** 10 << stream

    async with watching(seen):
        await until_seen(seen, "first", "second")


async def test_our_own_status_writes_are_no_work(kmock: mock.KubernetesScaffold, seen: list[Key]) -> None:
    events = [
        {"type": "ADDED", "object": deployment("digits")},
        {"type": "MODIFIED", "object": deployment("digits", phase="Optimizing")},
        {"type": "MODIFIED", "object": deployment("digits", phase="Healthy")},
        {"type": "ADDED", "object": deployment("last")},
    ]
    kmock["watch", mock.resource(DEPLOYMENTS)] ** 10 << (*events, ...)

    async with watching(seen):
        await until_seen(seen, "last")

    assert seen.count(Key("default", "digits")) == 1


async def test_an_edit_and_a_deletion_are_work(kmock: mock.KubernetesScaffold, seen: list[Key]) -> None:
    events = [
        {"type": "ADDED", "object": deployment("digits")},
        {"type": "MODIFIED", "object": deployment("digits", generation=2)},
        {"type": "DELETED", "object": deployment("digits", generation=2)},
        {"type": "ADDED", "object": deployment("last")},
    ]
    kmock["watch", mock.resource(DEPLOYMENTS)] ** 10 << (*events, ...)

    async with watching(seen):
        await until_seen(seen, "last")

    assert seen.count(Key("default", "digits")) >= 2
