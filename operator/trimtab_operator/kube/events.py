"""Events for people. The name is made of the content, so the same event about the same generation exists once."""

from datetime import UTC, datetime
from typing import Any

from trimtab_api.contract import digest_of
from trimtab_operator.kube.client import KubeClient
from trimtab_operator.kube.errors import ApiError

Manifest = dict[str, Any]

_MESSAGE_LIMIT = 1000


class EventRecorder:
    """Writes Events. An Event that cannot be written is never a reason to fail: the status says the same."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def record(self, about: Manifest, type_: str, reason: str, message: str) -> None:
        """Write one Event about an object."""
        try:
            await self._client.create_event(_event(about, type_, reason, message[:_MESSAGE_LIMIT]))
        except ApiError:
            return


def _event(about: Manifest, type_: str, reason: str, message: str) -> Manifest:
    meta = about["metadata"]
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    name = digest_of([meta["uid"], meta.get("generation"), type_, reason, message])[7:23]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.{name}", "namespace": meta["namespace"]},
        "involvedObject": {
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta["uid"],
        },
        "type": type_,
        "reason": reason,
        "message": message,
        "source": {"component": "trimtab"},
        "firstTimestamp": now[:19] + "Z",
        "lastTimestamp": now[:19] + "Z",
        "count": 1,
    }
