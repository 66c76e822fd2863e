"""What a cluster's controllers and kubelet would do: Jobs run, Deployments have as many pods as they ask for."""

import asyncio
from pathlib import Path
from typing import Any

import httpx

from trimtab_api.group import LABEL_REVISION
from trimtab_api.report import EXIT_USER_ERROR
from trimtab_cli.local.api import LocalApi
from trimtab_cli.local.processes import Manifest, Server, container_environment, free_port, start
from trimtab_operator.controller.views import apart
from trimtab_operator.core.observed import Batching, Pod, Sample
from trimtab_operator.probes.metrics import add_samples, parse_batching, parse_sample
from trimtab_optimizer.store import Store

_TRIES = 3


class LocalKubelet:
    """Runs processes for the objects of a LocalApi. It is also the Metrics of the reconcile: it knows the ports."""

    def __init__(
        self, api: LocalApi, store: Store, registry_dir: Path, work_dir: Path, http: httpx.AsyncClient
    ) -> None:
        self._api = api
        self._store = store
        self._registry_dir = registry_dir
        self._work_dir = work_dir
        self._http = http
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._servers: dict[str, list[Server]] = {}
        self._stopping: set[asyncio.Task[None]] = set()

    async def look(self) -> None:
        """Bring processes a step nearer to the objects, and the objects' status to the processes."""
        self._start_jobs()
        servers, explainers = apart(self._api.all("Deployment"))
        for item in explainers:
            self._report_explainer(item)
        for item in servers:
            await self._serve(item)
        known = {item["metadata"]["name"] for item in servers}
        for name in set(self._servers) - known:
            self._shrink(self._servers.pop(name), 0)

    def ready_servers(self, revision: str | None) -> list[Server]:
        """Return the ready servers of one revision, or of all."""
        names = [revision] if revision else list(self._servers)
        return [server for name in names for server in self._servers.get(name, []) if server.ready and server.alive]

    async def sample(self, pods: tuple[Pod, ...]) -> Sample | None:
        """Return the summed counters of the revision that these pods belong to."""
        servers = self.ready_servers(pods[0].revision) if pods else []
        texts = await asyncio.gather(*(self._metrics(server) for server in servers))
        samples = [parse_sample(text) for text in texts if text is not None]
        return add_samples(samples) if samples and len(samples) == len(servers) else None

    async def batching(self, pod: Pod) -> Batching | None:
        """Return how the servers of a revision batch, as one of them tells."""
        servers = self.ready_servers(pod.revision)
        text = await self._metrics(servers[0]) if servers else None
        return None if text is None else parse_batching(text, pod.revision)

    async def close(self) -> None:
        """End every process."""
        for task in self._jobs.values():
            task.cancel()
        await asyncio.gather(*self._jobs.values(), return_exceptions=True)
        await asyncio.gather(*(server.stop() for servers in self._servers.values() for server in servers))
        await asyncio.gather(*self._stopping)

    def _start_jobs(self) -> None:
        live = {item["metadata"]["name"]: item for item in self._api.all("Job")}
        for name, item in live.items():
            if name not in self._jobs:
                self._jobs[name] = asyncio.create_task(self._run_job(item))
        for name in set(self._jobs) - set(live):
            self._jobs.pop(name).cancel()

    async def _run_job(self, job: Manifest) -> None:
        name = job["metadata"]["name"]
        folder = self._work_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        message = folder / "termination-log"
        environment = container_environment(job["spec"]["template"]) | {
            "HOME": str(Path.home()),
            "TRIMTAB_SCRATCH": str(folder),
            "TRIMTAB_RESULT_FILE": str(message),
            "TRIMTAB_REGISTRY_DIR": str(self._registry_dir),
        }
        code = EXIT_USER_ERROR
        for _ in range(_TRIES):
            code = await self._run_once(environment, folder / "log")
            if code in (0, EXIT_USER_ERROR):
                break
        self._end_job(job, code, message.read_text() if message.exists() else "")

    async def _run_once(self, environment: dict[str, str], log: Path) -> int:
        process = await start("trimtab_optimizer", environment, log)
        try:
            return await process.wait()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise

    def _end_job(self, job: Manifest, code: int, message: str) -> None:
        meta = job["metadata"]
        labels = job["spec"]["template"]["metadata"]["labels"] | {"batch.kubernetes.io/job-name": meta["name"]}
        ended = {"exitCode": code, "message": message}
        self._put_pod(f"{meta['name']}-1", meta, labels, {"containerStatuses": [{"state": {"terminated": ended}}]})
        kind = "Complete" if code == 0 else "Failed"
        condition = {"type": kind, "status": "True", "reason": "ExitCode", "message": f"exit code {code}"}
        self._api.set_status(("Job", meta["namespace"], meta["name"]), {"conditions": [condition]})

    async def _serve(self, item: Manifest) -> None:
        name, wanted = item["metadata"]["name"], item["spec"]["replicas"]
        servers = [server for server in self._servers.get(name, []) if server.alive]
        self._servers[name] = servers
        while len(servers) < wanted:
            servers.append(await self._start_server(item))
        self._shrink(servers, wanted)
        await asyncio.gather(*(server.look(self._http) for server in servers))
        self._report(item, servers)

    async def _start_server(self, item: Manifest) -> Server:
        template = item["spec"]["template"]
        folder = self._unpacked(template)
        rest, grpc = free_port(), free_port()
        environment = container_environment(template) | {
            "TRIMTAB_MODEL_DIR": str(folder),
            "TRIMTAB_HOST": "127.0.0.1",
            "TRIMTAB_REST_PORT": str(rest),
            "TRIMTAB_GRPC_PORT": str(grpc),
            "TRIMTAB_DRAIN_SECONDS": "1",
            "TRIMTAB_EXPLAINER": "process",  # each has its own, where a cluster has pods for it
        }
        log = self._work_dir / f"{item['metadata']['name']}.log"
        return Server(await start("trimtab_runtime", environment, log), rest, grpc)

    def _unpacked(self, template: Manifest) -> Path:
        """Return the folder of the artifact: what the image volume would mount."""
        reference = str(next(v["image"]["reference"] for v in template["spec"]["volumes"] if "image" in v))
        folder = self._work_dir / "artifacts" / reference.rpartition(":")[2]
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            self._store.pull(f"oci://{reference}", folder)
        return folder

    def _shrink(self, servers: list[Server], wanted: int) -> None:
        while len(servers) > wanted:
            task = asyncio.create_task(servers.pop().stop())
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

    def _report(self, item: Manifest, servers: list[Server]) -> None:
        meta = item["metadata"]
        ready = sum(server.ready for server in servers)
        status = {"observedGeneration": meta["generation"], "replicas": len(servers), "readyReplicas": ready}
        if item.get("status") == status:
            return
        self._api.set_status(("Deployment", meta["namespace"], meta["name"]), status)
        labels = item["spec"]["template"]["metadata"]["labels"]
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        self._put_pod(f"{labels[LABEL_REVISION]}-0", meta, labels, {"conditions": [condition]})

    def _report_explainer(self, item: Manifest) -> None:
        """Call an explainer ready: each server here has its own, which it starts when it is asked."""
        count = item["spec"]["replicas"]
        status = {"observedGeneration": item["metadata"]["generation"], "replicas": count, "readyReplicas": count}
        if item.get("status") != status:
            self._api.set_status(("Deployment", item["metadata"]["namespace"], item["metadata"]["name"]), status)

    def _put_pod(self, name: str, owner: Manifest, labels: dict[str, str], status: dict[str, Any]) -> None:
        meta = {
            "name": name,
            "namespace": owner["namespace"],
            "labels": labels,
            "ownerReferences": [{"uid": owner["uid"]}],
        }
        self._api.put({"kind": "Pod", "metadata": meta, "status": status})

    async def _metrics(self, server: Server) -> str | None:
        try:
            return (await self._http.get(f"http://127.0.0.1:{server.rest_port}/metrics", timeout=2)).text
        except httpx.HTTPError:
            return None
