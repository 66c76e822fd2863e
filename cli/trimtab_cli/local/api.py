"""LocalApi: the KubeClient of a world in memory, with the parts of an API server that the operator relies on.

Server-side apply by a single manager is replacement of all but status; the generation counts changes of spec; deleting
an owner deletes what it owns.
"""

import copy
import itertools
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from trimtab_operator.core.times import write_time
from trimtab_operator.kube.errors import NotFound

Manifest = dict[str, Any]
Address = tuple[str, str, str]  # kind, namespace, name


class LocalApi:
    """Objects in memory. `changed` is called with every object that was written or deleted."""

    def __init__(self, changed: Callable[[Manifest], None], now: Callable[[], datetime] | None = None) -> None:
        self._objects: dict[Address, Manifest] = {}
        self._changed = changed
        self._now = now or (lambda: datetime.now(UTC))
        self._versions = itertools.count(1)
        self.events: list[Manifest] = []

    async def get(self, kind: str, namespace: str, name: str) -> Manifest:
        return copy.deepcopy(self._find((kind, namespace, name)))

    async def list(self, kind: str, namespace: str, label_selector: str) -> list[Manifest]:
        key, _, value = label_selector.partition("=")
        found = (item for (kind_, space, _), item in self._objects.items() if (kind_, space) == (kind, namespace))
        return [copy.deepcopy(item) for item in found if _labels(item).get(key) == value]

    async def apply(self, manifest: Manifest) -> Manifest:
        address = _address(manifest)
        before = self._objects.get(address)
        after = copy.deepcopy(manifest)
        meta = after["metadata"]
        if before is None:
            meta |= {"uid": str(uuid.uuid4()), "generation": 1, "creationTimestamp": write_time(self._now())}
        else:
            kept = before["metadata"]
            generation = kept["generation"] + (before.get("spec") != after.get("spec"))
            meta |= {"uid": kept["uid"], "generation": generation, "creationTimestamp": kept["creationTimestamp"]}
            after |= {"status": before["status"]} if "status" in before else {}
        self._put(address, after)
        return copy.deepcopy(after)

    async def apply_status(self, manifest: Manifest) -> None:
        self.set_status(_address(manifest), manifest["status"])

    def set_status(self, address: Address, status: Manifest) -> None:
        """Write the status of an object, as its controller or kubelet would. An object that is gone is no error."""
        if address in self._objects:
            self._put(address, {**self._objects[address], "status": copy.deepcopy(status)})

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        self._delete(self._find((kind, namespace, name)))

    async def create_event(self, manifest: Manifest) -> None:
        self.events.append(manifest)

    def all(self, kind: str) -> tuple[Manifest, ...]:
        """Return the live objects of a kind, in the order of their making."""
        return tuple(item for (kind_, _, _), item in self._objects.items() if kind_ == kind)

    def put(self, manifest: Manifest) -> None:
        """Store an object that no client applied, such as a pod."""
        self._put(_address(manifest), manifest)

    def remove(self, address: Address) -> None:
        """Drop an object and leave what it owns, as a server does until its garbage is collected."""
        self._objects.pop(address, None)

    def _find(self, address: Address) -> Manifest:
        if address not in self._objects:
            raise NotFound(" ".join(address))
        return self._objects[address]

    def _put(self, address: Address, item: Manifest) -> None:
        item["metadata"]["resourceVersion"] = str(next(self._versions))
        self._objects[address] = item
        self._changed(item)

    def _delete(self, item: Manifest) -> None:
        if self._objects.pop(_address(item), None) is None:
            return
        uid = item["metadata"].get("uid")
        for other in list(self._objects.values()):
            if uid and uid in (owner["uid"] for owner in other["metadata"].get("ownerReferences", ())):
                self._delete(other)
        self._changed(item)


def _address(manifest: Manifest) -> Address:
    return manifest["kind"], manifest["metadata"]["namespace"], manifest["metadata"]["name"]


def _labels(manifest: Manifest) -> dict[str, str]:
    labels: dict[str, str] = manifest["metadata"].get("labels", {})
    return labels
