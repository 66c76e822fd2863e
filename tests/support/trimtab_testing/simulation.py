"""A cluster in memory under the real reconcile: Jobs and pods do what the test says, and time moves when it says."""

import asyncio
import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from trimtab_api.contract import digest_of
from trimtab_api.group import API_VERSION, LABEL_REVISION, MODEL_DEPLOYMENT
from trimtab_api.plan import Plan
from trimtab_api.report import JobFailure, JobMessage, MeasuredMetric, OptimizationResult, Unoptimized
from trimtab_cli.local.api import LocalApi
from trimtab_operator.controller.reconcile import Context, reconcile
from trimtab_operator.controller.workqueue import Key
from trimtab_operator.core.observed import Batching, Manifest, Pod, Sample, Settings
from trimtab_operator.kube.events import EventRecorder

KEY = Key("default", "digits")
SETTINGS = Settings("optimizer@sha256:0", "runtime@sha256:0", "registry.local:5000/trimtab/default")


def a_spec(**changes: Any) -> dict[str, Any]:
    """Return the spec of a small model without steps; keyword arguments replace top-level fields."""
    spec: dict[str, Any] = {
        "model": {"uri": "oci://registry.local:5000/models/digits:v1", "format": "pytorch"},
        "replicas": 2,
    }
    return spec | changes


def with_steps(*steps: dict[str, Any], **canary: Any) -> dict[str, Any]:
    """Return a strategy with these steps."""
    return {"canary": {"steps": list(steps), **canary}}


@dataclass
class Simulation:
    """The world of one ModelDeployment. Figures are what the next Job measures; `not_ready` pods never get ready."""

    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    figures: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
    details: dict[str, dict[str, float]] = field(default_factory=dict)  # what else is known of a figure, by its name
    job_failure: JobFailure | None = None
    jobs_run: bool = True
    not_ready: set[str] = field(default_factory=set)
    sample: Sample | None = None
    batching: Batching | None = field(default_factory=lambda: Batching("", 32, True, 0.0))
    stored: dict[str, OptimizationResult] = field(default_factory=dict)
    history: list[tuple[str, ...]] = field(default_factory=list)
    _garbage: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.api = LocalApi(lambda _: None, lambda: self.now)
        self.context = Context(
            self.api, _Registry(self), _Metrics(self), EventRecorder(self.api), SETTINGS, lambda: self.now
        )

    def apply(self, spec: dict[str, Any], **annotations: str) -> None:
        """Do what kubectl apply would."""
        notes = {f"trimtab.dev/{key}": value for key, value in annotations.items()}
        meta = {"name": KEY.name, "namespace": KEY.namespace, "annotations": notes}
        body = {"apiVersion": API_VERSION, "kind": MODEL_DEPLOYMENT, "metadata": meta, "spec": copy.deepcopy(spec)}
        asyncio.run(self.api.apply(body))

    def upgrade(self, **changes: Any) -> None:
        """Go on as an operator with other settings would."""
        self.context = replace(self.context, settings=replace(self.context.settings, **changes))

    def delete(self) -> None:
        """Delete the ModelDeployment; what it owns stays until the garbage is collected."""
        self._garbage = {
            (item["kind"], item["metadata"]["name"])
            for kind in ("ModelRevision", "Job", "Deployment", "Service", "Pod")
            for item in self.api.all(kind)
        }
        self.api.remove((MODEL_DEPLOYMENT, *_place()))

    def collect_garbage(self) -> None:
        """Delete what the ModelDeployment owned that was deleted."""
        for kind, name in self._garbage:
            self.api.remove((kind, KEY.namespace, name))

    def settle(self, looks: int = 40) -> None:
        """Reconcile and let Jobs and pods react until nothing changes any more."""
        for _ in range(looks):
            changed = self.look()
            if not (self.react() or changed):
                return
        raise AssertionError(f"the world does not settle: {self.history[-4:]}")

    def look(self) -> bool:
        """Reconcile once; tell whether anything was written."""
        result = asyncio.run(reconcile(self.context, KEY))
        if result is None:
            return False
        assert result.outcome.failure is None
        self.history.append(result.outcome.done)
        return bool(result.outcome.done)

    def react(self) -> bool:
        """Let every Job and Deployment reach the state that it works towards; tell whether anything moved."""
        jobs = [self._finish(job) for job in self.api.all("Job")] if self.jobs_run else []
        return any([*jobs, *[self._scale(item) for item in self.api.all("Deployment")]])

    def wait(self, seconds: float) -> None:
        """Let time pass, then settle."""
        self.now += timedelta(seconds=seconds)
        self.settle()

    @property
    def status(self) -> Manifest:
        status: Manifest = asyncio.run(self.api.get(MODEL_DEPLOYMENT, *_place())).get("status", {})
        return status

    @property
    def selected(self) -> str | None:
        """Return the one revision that the main Service selects; None for every pod."""
        selector: dict[str, str] = asyncio.run(self.api.get("Service", *_place()))["spec"]["selector"]
        return selector.get(LABEL_REVISION)

    def pods(self, revision: str) -> int:
        return int(asyncio.run(self.api.get("Deployment", KEY.namespace, revision))["spec"]["replicas"])

    def image(self, revision: str) -> str:
        deployment = asyncio.run(self.api.get("Deployment", KEY.namespace, revision))
        return str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])

    def condition(self, kind: str) -> Manifest:
        return next(item for item in self.status["conditions"] if item["type"] == kind)

    def _finish(self, job: Manifest) -> bool:
        if job.get("status"):
            return False
        plan = Plan.model_validate_json(_environment(job)["TRIMTAB_PLAN"])
        message = JobMessage(failure=self.job_failure) if self.job_failure else JobMessage(result=self.result(plan))
        self._end_pod(job, message)
        kind, reason = ("Failed", "PodFailurePolicy") if self.job_failure else ("Complete", "CompletionsReached")
        condition = {"type": kind, "status": "True", "reason": reason, "message": "x"}
        self.api.set_status(("Job", KEY.namespace, job["metadata"]["name"]), {"conditions": [condition]})
        return True

    def result(self, plan: Plan) -> OptimizationResult:
        """Return what the Job of a plan would answer."""
        digests = {uri: digest_of(uri) for uri in plan.uris()}
        key = plan.key(digests)
        metrics = [
            MeasuredMetric.parse({"name": name, "value": v, "source": s, **self.details.get(name, {})})
            for name, (v, s) in self.figures.items()
        ]
        spare = Unoptimized(artifact=f"r/source@{key}", size_bytes=9) if plan.keep_unoptimized else None
        return OptimizationResult(
            artifact=f"r/a@{key}",
            plan=key,
            resolved=digests,
            metrics=tuple(metrics),
            unoptimized=spare,
        )

    def _end_pod(self, job: Manifest, message: JobMessage) -> None:
        name = job["metadata"]["name"]
        ended = {"exitCode": 42 if message.failure else 0, "message": message.model_dump_json(by_alias=True)}
        labels = job["spec"]["template"]["metadata"]["labels"] | {"batch.kubernetes.io/job-name": name}
        owner = [{"uid": job["metadata"]["uid"]}]
        meta = {"name": f"{name}-x", "namespace": KEY.namespace, "labels": labels, "ownerReferences": owner}
        status = {"containerStatuses": [{"state": {"terminated": ended}}]}
        self.api.put({"kind": "Pod", "metadata": meta, "status": status})

    def _scale(self, item: Manifest) -> bool:
        name, wanted = item["metadata"]["name"], item["spec"]["replicas"]
        ready = 0 if name in self.not_ready else wanted
        status = {"observedGeneration": item["metadata"]["generation"], "replicas": wanted, "readyReplicas": ready}
        if item.get("status") == status:
            return False
        self.api.set_status(("Deployment", KEY.namespace, name), status)
        self._put_pods(item, wanted)
        return True

    def _put_pods(self, item: Manifest, count: int) -> None:
        name = item["metadata"]["name"]
        for pod in [pod for pod in self.api.all("Pod") if pod["metadata"]["name"].startswith(f"{name}-pod-")]:
            asyncio.run(self.api.delete("Pod", KEY.namespace, pod["metadata"]["name"]))
        labels = item["spec"]["template"]["metadata"]["labels"]
        for index in range(count):
            meta = {"name": f"{name}-pod-{index}", "namespace": KEY.namespace, "labels": labels}
            ready = {"type": "Ready", "status": "False" if name in self.not_ready else "True"}
            self.api.put({"kind": "Pod", "metadata": meta, "status": {"podIP": "127.0.0.1", "conditions": [ready]}})


@dataclass(frozen=True)
class _Registry:
    world: Simulation

    async def find(self, plan: Plan) -> OptimizationResult | None:
        return self.world.stored.get(plan.source.uri)


@dataclass(frozen=True)
class _Metrics:
    world: Simulation

    async def sample(self, pods: tuple[Pod, ...]) -> Sample | None:
        return self.world.sample

    async def batching(self, pod: Pod) -> Batching | None:
        found = self.world.batching
        return None if found is None else replace(found, revision=pod.revision)


def _place() -> tuple[str, str]:
    return KEY.namespace, KEY.name


def _environment(job: Manifest) -> dict[str, str]:
    container = job["spec"]["template"]["spec"]["containers"][0]
    return {item["name"]: item["value"] for item in container["env"]}
