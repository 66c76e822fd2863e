"""From the API server's objects to the facts of core/observed.py. An object that was tampered with is no crash."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from trimtab_api.errors import InvalidSpec
from trimtab_api.group import (
    ANNOTATION_CANDIDATE,
    ANNOTATION_REJECTED,
    ANNOTATION_RETIRED_AT,
    ANNOTATION_RETRY,
    ANNOTATION_STABLE,
    ANNOTATION_STABLE_SINCE,
    LABEL_REVISION,
)
from trimtab_api.report import JobFailure
from trimtab_api.revision import ModelRevisionSpec, Rejection
from trimtab_operator.core.observed import Manifest, OptimizeJob, Parent, Pod, Revision, Serving, Traffic
from trimtab_operator.core.times import read_time
from trimtab_operator.resources.metadata import EXPLAINER, LABEL_COMPONENT


def parent_of(item: Manifest) -> Parent:
    """Read a ModelDeployment."""
    meta = item["metadata"]
    return Parent(
        name=meta["name"],
        namespace=meta["namespace"],
        uid=meta["uid"],
        generation=meta.get("generation", 1),
        annotations=meta.get("annotations") or {},
        spec=item.get("spec") or {},
        status=item.get("status") or {},
    )


def leftovers_of(parent: Manifest, owned: Mapping[str, Sequence[Manifest]]) -> tuple[str, ...]:
    """Return what belongs to an earlier ModelDeployment of the same name, or to an earlier revision of the same name.

    The owner is told by uid: an object that was deleted and made again has another one. What nobody owns, as after a
    deletion with --cascade=orphan, is taken over.
    """
    uids = {("ModelDeployment", parent["metadata"]["name"]): parent["metadata"]["uid"]}
    for item in owned["ModelRevision"]:
        uids["ModelRevision", item["metadata"]["name"]] = item["metadata"]["uid"]
    found = []
    for kind, items in owned.items():
        for item in items:
            owner = _controller(item)
            if owner and uids.get((str(owner.get("kind")), owner.get("name")), owner.get("uid")) != owner.get("uid"):
                found.append(f"{kind}/{item['metadata']['name']}")
    return tuple(sorted(found))


def _controller(item: Manifest) -> Mapping[str, Any] | None:
    owners = item["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), None)


def apart(items: Sequence[Manifest]) -> tuple[list[Manifest], list[Manifest]]:
    """Return what serves or optimizes, and what explains."""
    explaining = [item for item in items if (item["metadata"].get("labels") or {}).get(LABEL_COMPONENT) == EXPLAINER]
    return [item for item in items if item not in explaining], explaining


def revision_of(item: Manifest) -> Revision | None:
    """Read a ModelRevision; None where an older or newer operator wrote what this one cannot read."""
    meta = item["metadata"]
    notes = meta.get("annotations") or {}
    created = read_time(meta.get("creationTimestamp"))
    try:
        spec = ModelRevisionSpec.parse(item.get("spec"))
    except InvalidSpec:
        return None
    if created is None or meta.get("deletionTimestamp"):
        return None
    return Revision(
        name=meta["name"],
        uid=meta["uid"],
        spec=spec,
        created=created,
        stable_since=read_time(notes.get(ANNOTATION_STABLE_SINCE)),
        retired_at=read_time(notes.get(ANNOTATION_RETIRED_AT)),
        rejection=_rejection(notes.get(ANNOTATION_REJECTED)),
    )


def serving_of(item: Manifest) -> Serving:
    """Read the Deployment of a revision."""
    status = item.get("status") or {}
    current = status.get("observedGeneration", 0) >= item["metadata"].get("generation", 1)
    available = _condition(status, "Available")
    return Serving(
        revision=_label(item),
        replicas=item.get("spec", {}).get("replicas", 0),
        pods=status.get("replicas", 0),
        ready=status.get("readyReplicas", 0) if current else 0,
        unavailable_since=read_time(available.get("lastTransitionTime"))
        if available.get("status") == "False"
        else None,
    )


def traffic_of(item: Manifest) -> Traffic:
    """Read the main Service: who serves is in its annotations, who gets traffic in its selector."""
    notes = item["metadata"].get("annotations") or {}
    selector = item.get("spec", {}).get("selector") or {}
    return Traffic(notes.get(ANNOTATION_STABLE), notes.get(ANNOTATION_CANDIDATE), selector.get(LABEL_REVISION))


def job_of(item: Manifest) -> OptimizeJob | None:
    """Read an optimize Job; None for one that is on its way out."""
    meta, status = item["metadata"], item.get("status") or {}
    created = read_time(meta.get("creationTimestamp"))
    if created is None or meta.get("deletionTimestamp"):
        return None
    failed = _condition(status, "Failed")
    failure = None
    if failed.get("status") == "True":
        failure = JobFailure(
            reason=failed.get("reason") or "JobFailed", message=failed.get("message") or "the Job failed"
        )
    return OptimizeJob(
        name=meta["name"],
        revision=_label(item),
        retry=(meta.get("annotations") or {}).get(ANNOTATION_RETRY, ""),
        created=created,
        succeeded=_condition(status, "Complete").get("status") == "True",
        failure=failure,
    )


def pod_of(item: Manifest) -> Pod:
    """Read a pod of a Job or of a revision."""
    meta, status = item["metadata"], item.get("status") or {}
    containers: list[Mapping[str, Any]] = status.get("containerStatuses") or [{}]
    container, engines = containers[0], status.get("initContainerStatuses") or []
    ended = _ended(container)
    return Pod(
        name=meta["name"],
        revision=_label(item),
        job=(meta.get("labels") or {}).get("batch.kubernetes.io/job-name"),
        ip=status.get("podIP"),
        ready=_condition(status, "Ready").get("status") == "True" and not meta.get("deletionTimestamp"),
        trouble=next(filter(None, (_trouble(status, item) for item in (container, *engines))), None),
        message=ended.get("message"),
        exit_code=ended.get("exitCode"),
        out_of_memory=ended.get("reason") == "OOMKilled",
        started=read_time(status.get("startTime")),
    )


def _ended(container: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in ("state", "lastState"):
        ended: Mapping[str, Any] | None = (container.get(key) or {}).get("terminated")
        if ended:
            return ended
    return {}


def _trouble(status: Mapping[str, Any], container: Mapping[str, Any]) -> str | None:
    """Say why a pod does not run: not scheduled, image not pulled, crashing."""
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False":
        return f"{scheduled.get('reason')}: {scheduled.get('message')}"
    waiting = (container.get("state") or {}).get("waiting") or {}
    if waiting.get("reason") in (None, "ContainerCreating", "PodInitializing"):
        return None
    ended = _ended(container)
    last = f"; last exit {ended.get('exitCode')}: {ended.get('message') or ended.get('reason')}" if ended else ""
    return f"{waiting['reason']}: {waiting.get('message', '')}{last}"[:500]


def _rejection(text: str | None) -> Rejection | None:
    try:
        return Rejection.parse(json.loads(text)) if text else None
    except (ValueError, InvalidSpec):
        return None


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next((item for item in status.get("conditions") or () if item.get("type") == kind), {})
    return found


def _label(item: Manifest) -> str:
    return str((item["metadata"].get("labels") or {}).get(LABEL_REVISION, ""))
