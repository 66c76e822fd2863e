"""KubeClient: what the controller needs of an API server, in six methods, and its implementation over `kubernetes.aio`.

Objects are plain dicts: builders make them, the API server checks them. The kinds are a fixed table, so the client asks
for no discovery and needs no permission for it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
from kubernetes.aio.client import ApiClient
from kubernetes.aio.client.exceptions import ApiException

from trimtab_api.group import API_VERSION, FIELD_MANAGER
from trimtab_operator.kube.errors import Unavailable, error_for

Manifest = dict[str, Any]

_REQUEST_SECONDS = 30.0
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Kind:
    api_version: str
    plural: str

    def path(self, namespace: str, name: str | None = None, subresource: str | None = None) -> str:
        """Return the URL path of a namespace's objects, of one, or of a part of one."""
        root = f"/api/{self.api_version}" if "/" not in self.api_version else f"/apis/{self.api_version}"
        parts = [root, "namespaces", namespace, self.plural, name, subresource]
        return "/".join(part for part in parts if part)


KINDS = {
    "ModelDeployment": Kind(API_VERSION, "modeldeployments"),
    "ModelRevision": Kind(API_VERSION, "modelrevisions"),
    "Job": Kind("batch/v1", "jobs"),
    "Deployment": Kind("apps/v1", "deployments"),
    "Service": Kind("v1", "services"),
    "Pod": Kind("v1", "pods"),
    "Event": Kind("v1", "events"),
}


class KubeClient(Protocol):
    """All that the controller asks of an API server. Raises the errors of kube/errors.py."""

    async def get(self, kind: str, namespace: str, name: str) -> Manifest: ...

    async def list(self, kind: str, namespace: str, label_selector: str) -> list[Manifest]: ...

    async def apply(self, manifest: Manifest) -> Manifest: ...

    async def apply_status(self, manifest: Manifest) -> None: ...

    async def delete(self, kind: str, namespace: str, name: str) -> None: ...

    async def create_event(self, manifest: Manifest) -> None: ...


class ApiServer:
    """KubeClient over `kubernetes.aio`. The ApiClient carries address and credentials; its owner closes it."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def get(self, kind: str, namespace: str, name: str) -> Manifest:
        return await self._send("GET", KINDS[kind].path(namespace, name))

    async def list(self, kind: str, namespace: str, label_selector: str) -> list[Manifest]:
        query = [("labelSelector", label_selector), ("limit", str(_PAGE))]
        found: list[Manifest] = []
        more = ""
        while True:
            page = await self._send(
                "GET", KINDS[kind].path(namespace), [*query, *([("continue", more)] if more else [])]
            )
            # Items of a list come without the two fields that every object has elsewhere.
            whole = {"apiVersion": KINDS[kind].api_version, "kind": kind}
            found.extend(whole | item for item in page["items"])
            more = page["metadata"].get("continue", "")
            if not more:
                return found

    async def apply(self, manifest: Manifest) -> Manifest:
        """Apply a complete object. Force: a field that somebody else took over by hand comes back to us."""
        return await self._apply(manifest, None)

    async def apply_status(self, manifest: Manifest) -> None:
        await self._apply(manifest, "status")

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete in the background: dependents go too, and nobody waits for them."""
        await self._send("DELETE", KINDS[kind].path(namespace, name), [("propagationPolicy", "Background")])

    async def create_event(self, manifest: Manifest) -> None:
        await self._send("POST", KINDS["Event"].path(manifest["metadata"]["namespace"]), body=manifest)

    async def _apply(self, manifest: Manifest, subresource: str | None) -> Manifest:
        meta = manifest["metadata"]
        path = KINDS[manifest["kind"]].path(meta["namespace"], meta["name"], subresource)
        query = [("fieldManager", FIELD_MANAGER), ("force", "true")]
        return await self._send("PATCH", path, query, manifest, "application/apply-patch+yaml")

    async def _send(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        body: Manifest | None = None,
        content_type: str = "application/json",
    ) -> Manifest:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        try:
            request = await self._api.param_serialize(
                method, path, query_params=list(query), header_params=headers, body=body, auth_settings=["BearerToken"]
            )
            answer = await self._api.call_api(*request, _request_timeout=_REQUEST_SECONDS)
            content = await answer.read()  # type: ignore[no-untyped-call]
        except ApiException as error:
            raise error_for(error.status or 0, f"{method} {path}", _message_of(error.body)) from error
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{method} {path}: {type(error).__name__}: {error}") from error
        if not 200 <= answer.status <= 299:
            raise error_for(answer.status, f"{method} {path}", _message_of(content))
        found: Manifest = json.loads(content)
        return found


def _message_of(body: Any) -> str:
    """Return the message of a Status object, or the start of whatever came instead."""
    try:
        return str(json.loads(body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(body)[:300]
