"""ModelRevision: the immutable record of one artifact with the settings that serve it, and its identity.

The identity is a digest of those fields of the spec that change what is served. It is known before any Job runs, so
"the spec was edited back" is a look-up by name. Replicas, strategy and gate limits are not part of it.
"""

from typing import Any

from trimtab_api.contract import Contract, digest_of
from trimtab_api.report import MeasuredMetric, PassReport
from trimtab_api.spec import ModelDeploymentSpec, NoEffect


class RevisionArtifact(Contract):
    """The model by digest, with what was measured when it was made."""

    image: str
    plan: str
    resolved: dict[str, str]
    metrics: tuple[MeasuredMetric, ...] = ()
    passes: tuple[PassReport, ...] = ()
    search: str | None = None
    unoptimized_image: str | None = None


class ModelRevisionSpec(Contract):
    """Everything needed to serve this revision again, without the ModelDeployment that made it.

    `template` is the pod template as it was first made: an operator that builds pods in another way restarts none.
    """

    deployment: str
    identity: str
    number: int
    artifact: RevisionArtifact
    template: dict[str, Any]


class Rejection(Contract):
    """Why a revision is not to get traffic, and the key under which that stays true."""

    key: str
    reason: str
    message: str


def identity_of(spec: ModelDeploymentSpec) -> str:
    """Return the digest of what a spec serves: model, passes, evaluation data and runtime settings."""
    return digest_of(_identity(spec))


def revision_name(deployment: str, identity: str) -> str:
    """Return `<deployment>-<8 hex>`: the name of the revision, of its Deployment, its Service and its Job."""
    return f"{deployment}-{identity.removeprefix('sha256:')[:8]}"


def rejection_key(spec: ModelDeploymentSpec, retry: str) -> str:
    """Return the digest of what may give a rejected revision another try: its gate, its steps, or a person's word."""
    metrics = spec.evaluation.to_dict() if spec.evaluation else None
    return digest_of([metrics, spec.strategy.to_dict(), spec.progress_deadline_seconds, retry])


def _identity(spec: ModelDeploymentSpec) -> dict[str, Any]:
    wanted = {} if spec.optimization.on_no_effect is NoEffect.WARN else {"onNoEffect": spec.optimization.on_no_effect}
    return wanted | {
        "model": spec.model.model_copy(update={"secret_ref": None}).to_dict(),
        "passes": [item.to_dict() for item in spec.optimization.passes],
        "seed": spec.optimization.seed,
        "search": _search(spec),
        "evaluationData": spec.evaluation.data if spec.evaluation else None,
        "runtime": spec.runtime.to_dict(),
    }


def _search(spec: ModelDeploymentSpec) -> list[Any] | None:
    """Return what a search among passes hangs on; limits are part of it, since they tell which variant is taken."""
    if spec.optimization.search is None or spec.evaluation is None:
        return None
    return [spec.optimization.search.to_dict(), [limit.to_dict() for limit in spec.evaluation.metrics]]
