"""A laptop's world: API server, kubelet, Service and the operator's own reconcile, turned by one loop."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from trimtab_api.group import LABEL_REVISION, MODEL_DEPLOYMENT
from trimtab_api.plan import Plan
from trimtab_api.report import OptimizationResult
from trimtab_cli.local.api import LocalApi
from trimtab_cli.local.kubelet import LocalKubelet
from trimtab_cli.local.service import Forwarder
from trimtab_operator.controller.reconcile import Context, reconcile
from trimtab_operator.controller.workqueue import Key
from trimtab_operator.core.observed import Manifest, Settings
from trimtab_operator.kube.events import EventRecorder
from trimtab_optimizer.store import open_store

_SETTINGS = Settings(
    "local", "local", "local.registry/trimtab/artifacts", drain_seconds=1, optimizer_tensorflow_image="local"
)
_TURN_SECONDS = 0.2


class LocalWorld:
    """Runs one ModelDeployment. `say` is given a line whenever the status says something new."""

    def __init__(self, registry_dir: Path, work_dir: Path, http: httpx.AsyncClient, say: Callable[[str], None]) -> None:
        self._say = say
        self._shown = ""
        self._api = LocalApi(lambda _: None)
        store = open_store(directory=registry_dir)
        self._kubelet = LocalKubelet(self._api, store, registry_dir, work_dir, http)
        recorder = EventRecorder(self._api)
        self._context = Context(self._api, _NoRegistry(), self._kubelet, recorder, _SETTINGS, lambda: datetime.now(UTC))
        self._key: Key | None = None

    async def apply(self, manifest: Manifest) -> None:
        """Take a ModelDeployment as `kubectl apply` would."""
        meta = manifest["metadata"]
        meta.setdefault("namespace", "default")
        self._key = Key(meta["namespace"], meta["name"])
        await self._api.apply(manifest)

    async def serve(self, port: int, grpc_port: int) -> None:
        """Turn until cancelled; connections to the ports reach what the main Service selects."""
        rest = Forwarder(lambda: [server.rest_port for server in self._selected()])
        grpc = Forwarder(lambda: [server.grpc_port for server in self._selected()])
        await rest.start(port)
        await grpc.start(grpc_port)
        try:
            while True:
                await self._turn()
                await asyncio.sleep(_TURN_SECONDS)
        finally:
            await rest.close()
            await grpc.close()
            await self._kubelet.close()

    async def status(self) -> dict[str, Any]:
        """Return the status of the ModelDeployment."""
        assert self._key is not None
        item = await self._api.get(MODEL_DEPLOYMENT, self._key.namespace, self._key.name)
        status: dict[str, Any] = item.get("status", {})
        return status

    async def _turn(self) -> None:
        if self._key is None:
            return
        await self._kubelet.look()
        await reconcile(self._context, self._key)
        status = await self.status()
        text = f"{status.get('phase', '')}: {status.get('message', '')}"
        if text != self._shown:
            self._shown = text
            self._say(text)

    def _selected(self) -> list[Any]:
        main = [item for item in self._api.all("Service") if self._key and item["metadata"]["name"] == self._key.name]
        return self._kubelet.ready_servers(main[0]["spec"]["selector"].get(LABEL_REVISION)) if main else []


class _NoRegistry:
    """Whether an artifact exists is left to the Job, which answers in a moment here."""

    async def find(self, plan: Plan) -> OptimizationResult | None:
        return None
