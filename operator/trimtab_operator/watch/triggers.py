"""Handlers that turn every event into a key on the queue, and do nothing else.

kopf drops errors of `on.event` handlers and never repeats them, which is right for a trigger: what an event missed, the
resync finds.
"""

from collections.abc import Callable, Mapping
from typing import Any

import kopf

from trimtab_api.group import GROUP, LABEL_DEPLOYMENT, LABEL_MANAGED_BY, VERSION
from trimtab_operator.controller.workqueue import Key
from trimtab_operator.resources.metadata import MANAGED_BY

OWNED = (
    (GROUP, VERSION, "modelrevisions"),
    ("batch", "v1", "jobs"),
    ("apps", "v1", "deployments"),
    ("", "v1", "services"),
    ("", "v1", "pods"),
)


def make_registry(add: Callable[[Key], None]) -> kopf.OperatorRegistry:
    """Return the handlers, bound to a queue."""
    registry = kopf.OperatorRegistry()
    seen: dict[str, object] = {}

    # Coroutines: kopf runs plain functions in threads, and the queue belongs to the event loop.
    async def enqueue(namespace: str | None, name: str | None, type: str | None, body: kopf.Body, **_: Any) -> None:
        # Our own status writes come back as events; a reconcile for each would never end while figures move.
        uid, asked = str(body.metadata.get("uid")), _asked(body)
        if namespace and name and (type == "DELETED" or seen.get(uid) != asked):
            add(Key(namespace, name))
        seen[uid] = asked
        if type == "DELETED":
            seen.pop(uid, None)

    async def enqueue_owner(namespace: str | None, labels: Mapping[str, str], **_: Any) -> None:
        owner = labels.get(LABEL_DEPLOYMENT)
        if namespace and owner:
            add(Key(namespace, owner))

    kopf.on.login(registry=registry, id="login")(_login)
    kopf.on.event(GROUP, VERSION, "modeldeployments", registry=registry, id="modeldeployment")(enqueue)
    for group, version, plural in OWNED:
        kopf.on.event(group, version, plural, registry=registry, id=plural)(enqueue_owner)
    return registry


def watch_settings() -> kopf.OperatorSettings:
    """Return every setting that differs from kopf's default, with its reason."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # Events are ours to write: once, and in our words
    settings.peering.standalone = True  # a Lease elects the leader; kopf's peers of equal priority all freeze
    settings.scanning.disabled = True  # a namespaced install may not list namespaces and CRDs
    settings.watching.server_timeout = 290
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 30
    for group, version, plural in OWNED:
        settings.watching.label_selectors[group, version, plural] = f"{LABEL_MANAGED_BY}={MANAGED_BY}"
    return settings


def _asked(body: kopf.Body) -> object:
    """Return what a person can change in a ModelDeployment: its spec, by generation, and its annotations."""
    return body.metadata.get("generation"), dict(body.metadata.annotations), body.metadata.get("deletionTimestamp")


def _login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)
