"""Act: apply what differs, delete what is obsolete, write status last and only on change, then tell.

One child that fails does not keep the others from being applied, and the status is written in any case: it is where a
person looks for the reason.
"""

from dataclasses import dataclass
from typing import Any

from trimtab_api.group import API_VERSION, MODEL_DEPLOYMENT
from trimtab_operator.controller.difference import needs_apply, stamped
from trimtab_operator.controller.observe import World
from trimtab_operator.core.decision import Decision
from trimtab_operator.core.observed import Manifest
from trimtab_operator.kube.client import KubeClient
from trimtab_operator.kube.errors import ApiError, NotFound
from trimtab_operator.kube.events import EventRecorder


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was written, in words for the log, and the first failure."""

    done: tuple[str, ...] = ()
    failure: ApiError | None = None


async def act(client: KubeClient, recorder: EventRecorder, world: World, decision: Decision) -> Outcome:
    """Carry a decision out."""
    done: list[str] = []
    failure: ApiError | None = None
    for desired in decision.apply:
        failure = await _apply(client, world, desired, done) or failure
    for item in decision.delete:
        failure = await _delete(client, world, item.kind, item.name, done) or failure
    status = _with_failure(decision.status, failure)
    if status is not None and status != world.observed.parent.status:
        failure = await _write_status(client, world, status, done) or failure
        for event in decision.events:
            await recorder.record(world.live[MODEL_DEPLOYMENT, _name(world)], event.type, event.reason, event.message)
    return Outcome(tuple(done), failure)


async def _apply(client: KubeClient, world: World, desired: Manifest, done: list[str]) -> ApiError | None:
    kind, name = desired["kind"], desired["metadata"]["name"]
    desired = stamped(desired)
    live = world.live.get((kind, name))
    if not needs_apply(desired, live):
        return None
    try:
        await client.apply(desired)
    except ApiError as error:
        return error
    done.append(f"applied {kind} {name}")
    return None


async def _delete(client: KubeClient, world: World, kind: str, name: str, done: list[str]) -> ApiError | None:
    live = world.live.get((kind, name), {})
    if live.get("metadata", {}).get("deletionTimestamp"):
        return None
    try:
        await client.delete(kind, world.observed.parent.namespace, name)
    except NotFound:
        return None
    except ApiError as error:
        return error
    done.append(f"deleted {kind} {name}")
    return None


async def _write_status(client: KubeClient, world: World, status: Manifest, done: list[str]) -> ApiError | None:
    parent = world.observed.parent
    body = {
        "apiVersion": API_VERSION,
        "kind": MODEL_DEPLOYMENT,
        "metadata": {"name": parent.name, "namespace": parent.namespace},
        "status": status,
    }
    try:
        await client.apply_status(body)
    except ApiError as error:
        return error
    done.append("wrote status")
    return None


def _with_failure(status: Manifest | None, failure: ApiError | None) -> Manifest | None:
    """Say in the Degraded condition what the API server refused; what serves goes on serving."""
    if status is None or failure is None:
        return status
    conditions = [_degraded(item, failure) if item["type"] == "Degraded" else item for item in status["conditions"]]
    return {**status, "phase": "Degraded", "message": str(failure), "conditions": conditions}


def _degraded(condition: dict[str, Any], failure: ApiError) -> dict[str, Any]:
    return {**condition, "status": "True", "reason": failure.reason, "message": str(failure)[:1000]}


def _name(world: World) -> str:
    return world.observed.parent.name
