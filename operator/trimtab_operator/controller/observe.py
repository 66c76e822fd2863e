"""Gather: one read of the parent, one list of each owned kind, and then only what the decision asks for.

Every read goes to the API server. There is no cache, so there is no view that is older than our own last write.
"""

import asyncio
from dataclasses import dataclass, replace
from typing import Protocol

from trimtab_api.group import LABEL_DEPLOYMENT
from trimtab_api.plan import Plan
from trimtab_api.report import OptimizationResult
from trimtab_operator.controller import views
from trimtab_operator.controller.workqueue import Key
from trimtab_operator.core.batching import pod_to_ask
from trimtab_operator.core.decision import plan_to_look_up, revision_to_sample
from trimtab_operator.core.observed import Batching, Manifest, Observed, Pod, Sample, Settings
from trimtab_operator.kube.client import KubeClient

OWNED_KINDS = ("ModelRevision", "Job", "Deployment", "Service", "Pod")


class Registry(Protocol):
    """Where artifacts are looked up. None where it cannot be told: the Job will find out."""

    async def find(self, plan: Plan) -> OptimizationResult | None: ...


class Metrics(Protocol):
    """What pods tell of themselves."""

    async def sample(self, pods: tuple[Pod, ...]) -> Sample | None:
        """Return the counters of pods, summed. None where one gives none: half a picture is no picture."""

    async def batching(self, pod: Pod) -> Batching | None:
        """Return how a server batches; None where it does not tell."""


@dataclass(frozen=True, slots=True)
class World:
    """The facts for the decision, and the live objects for the comparison with it."""

    observed: Observed
    live: dict[tuple[str, str], Manifest]


async def observe(client: KubeClient, registry: Registry, metrics: Metrics, settings: Settings, key: Key) -> World:
    """Read everything about one ModelDeployment. Raises NotFound when it is gone."""
    parent = await client.get("ModelDeployment", key.namespace, key.name)
    selector = f"{LABEL_DEPLOYMENT}={key.name}"
    lists = await asyncio.gather(*(client.list(kind, key.namespace, selector) for kind in OWNED_KINDS))
    owned = dict(zip(OWNED_KINDS, lists, strict=True))
    observed = _read(parent, owned, settings, key)
    observed = await _ask(observed, registry, metrics)
    live = {(kind, item["metadata"]["name"]): item for kind, items in owned.items() for item in items}
    live["ModelDeployment", key.name] = parent
    return World(observed, live)


def _read(parent: Manifest, owned: dict[str, list[Manifest]], settings: Settings, key: Key) -> Observed:
    services = {item["metadata"]["name"]: item for item in owned["Service"]}
    main = services.get(key.name)
    revisions = (views.revision_of(item) for item in owned["ModelRevision"])
    jobs = (views.job_of(item) for item in owned["Job"])
    deployments, explainers = views.apart(owned["Deployment"])
    pods, explainer_pods = views.apart(owned["Pod"])
    return Observed(
        parent=views.parent_of(parent),
        settings=settings,
        revisions=tuple(item for item in revisions if item),
        servings=tuple(views.serving_of(item) for item in deployments),
        traffic=views.traffic_of(main) if main else None,
        jobs=tuple(item for item in jobs if item),
        pods=tuple(views.pod_of(item) for item in pods),
        explainers=tuple(views.serving_of(item) for item in explainers),
        explainer_pods=tuple(views.pod_of(item) for item in explainer_pods),
        leftovers=views.leftovers_of(parent, owned),
    )


async def _ask(observed: Observed, registry: Registry, metrics: Metrics) -> Observed:
    plan = plan_to_look_up(observed)
    if plan is not None:
        observed = replace(observed, found=await registry.find(plan))
    pod = pod_to_ask(observed)
    if pod is not None:
        observed = replace(observed, batching=await metrics.batching(pod))
    name = revision_to_sample(observed)
    if name is None:
        return observed
    pods = tuple(pod for pod in observed.pods if pod.revision == name and pod.job is None and pod.ready)
    return replace(observed, sample=await metrics.sample(pods) if pods else None)
