"""What the core sees of the world: one frozen snapshot of a ModelDeployment and everything that belongs to it.

The shell reads the API server once per reconcile and hands the result over in these types. They hold facts only, so a
decision can be replayed from a snapshot and tested without a cluster.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from trimtab_api.plan import Plan
from trimtab_api.report import JobFailure, OptimizationResult
from trimtab_api.revision import ModelRevisionSpec, Rejection

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the chart configures: images by reference, and where artifacts go.

    `optimizer_tensorflow_image` makes LiteRT models. It is large, so a cluster may do without it.
    """

    optimizer_image: str
    runtime_image: str
    artifact_repository: str
    insecure_registries: tuple[str, ...] = ()
    artifact_secret: str | None = None
    image_pull_policy: str = "IfNotPresent"
    drain_seconds: int = 5
    optimizer_tensorflow_image: str | None = None

    def optimizer_of(self, plan: Plan) -> str | None:
        """Return the image that carries a plan out, or None where the chart names none that can."""
        return self.optimizer_tensorflow_image if plan.needs_tensorflow else self.optimizer_image


@dataclass(frozen=True, slots=True)
class Parent:
    """The ModelDeployment itself; `spec` and `status` as the API server holds them."""

    name: str
    namespace: str
    uid: str
    generation: int
    annotations: Mapping[str, str]
    spec: Mapping[str, Any]
    status: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Revision:
    """A ModelRevision with the times that its annotations keep."""

    name: str
    uid: str
    spec: ModelRevisionSpec
    created: datetime
    stable_since: datetime | None = None
    retired_at: datetime | None = None
    rejection: Rejection | None = None


@dataclass(frozen=True, slots=True)
class Serving:
    """The Deployment of a revision: pods asked for, pods that exist, pods that are ready."""

    revision: str
    replicas: int
    pods: int
    ready: int
    unavailable_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the main Service does now. `selected` is one revision, or None where it selects every serving pod."""

    stable: str | None
    candidate: str | None
    selected: str | None


@dataclass(frozen=True, slots=True)
class OptimizeJob:
    """A Job that makes the artifact of a revision. `failure` is set once Kubernetes has given it up."""

    name: str
    revision: str
    retry: str
    created: datetime
    succeeded: bool = False
    failure: JobFailure | None = None


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of a revision (`job` is None) or of its Job. `trouble` says in words why it does not run."""

    name: str
    revision: str
    job: str | None = None
    ip: str | None = None
    ready: bool = False
    trouble: str | None = None
    message: str | None = None  # the termination message
    exit_code: int | None = None
    out_of_memory: bool = False
    started: datetime | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters of a revision's pods, summed. `buckets` maps an upper bound in seconds to a cumulative count."""

    requests: float
    errors: float
    buckets: Mapping[float, float]


@dataclass(frozen=True, slots=True)
class Batching:
    """What the servers of a revision found out of it: rows that run together, and whether that changes answers.

    `difference` is a part of the largest output; None where it is beyond measure. A `safe` of None is not told. A
    `model` is the one of several whose rows differ most.
    """

    revision: str
    rows: int
    safe: bool | None
    difference: float | None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """The only input of the core beside the time."""

    parent: Parent
    settings: Settings
    revisions: tuple[Revision, ...] = ()
    servings: tuple[Serving, ...] = ()
    traffic: Traffic | None = None
    jobs: tuple[OptimizeJob, ...] = ()
    pods: tuple[Pod, ...] = ()
    leftovers: tuple[str, ...] = ()  # `Kind/name` of what a ModelDeployment that had this name before still owns
    found: OptimizationResult | None = None  # an artifact of the target's plan that the registry already holds
    sample: Sample | None = None  # of the candidate, while it is analysed
    explainers: tuple[Serving, ...] = ()
    explainer_pods: tuple[Pod, ...] = ()
    batching: Batching | None = None  # of the stable revision, until status has it

    @property
    def serves(self) -> bool:
        """Tell whether this very ModelDeployment has its Service, and not one of the same name before it."""
        return self.traffic is not None and f"Service/{self.parent.name}" not in self.leftovers

    def revision(self, name: str | None) -> Revision | None:
        """Return the revision of that name, if it exists."""
        return next((item for item in self.revisions if item.name == name), None)

    def explainer(self, name: str | None) -> Serving | None:
        """Return the Deployment of a revision's explainer, if it ever had one."""
        return next((item for item in self.explainers if item.revision == name), None)

    def serving(self, name: str | None) -> Serving:
        """Return the Deployment of a revision; one with no pods where there is none."""
        found = next((item for item in self.servings if item.revision == name), None)
        return found or Serving(revision=name or "", replicas=0, pods=0, ready=0)
