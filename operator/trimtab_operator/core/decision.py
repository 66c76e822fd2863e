"""decide(): everything the operator wants, from everything it saw. Same input, same answer.

The order of the stages is the flow of the product: spec, artifact, gate, rollout, children, status.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from trimtab_api.errors import InvalidSpec
from trimtab_api.gate import Gate, judge
from trimtab_api.plan import Plan, make_plan
from trimtab_api.report import OptimizationResult
from trimtab_api.revision import ModelRevisionSpec, Rejection, RevisionArtifact
from trimtab_api.spec import GateFailure, ModelDeploymentSpec
from trimtab_operator.core import batching, optimization, revisions
from trimtab_operator.core.events import Event, events_between
from trimtab_operator.core.observed import Manifest, Observed, Revision
from trimtab_operator.core.optimization import Optimization, Stage
from trimtab_operator.core.revisions import Wanted
from trimtab_operator.core.rollout import Rollout, advance
from trimtab_operator.core.status import Summary, summarize, summarize_invalid, summarize_leftovers
from trimtab_operator.resources.explainer import background_of, can_ask, explainer
from trimtab_operator.resources.model_revision import Marks, model_revision, new_model_revision
from trimtab_operator.resources.optimize_job import optimize_job
from trimtab_operator.resources.service import main_service, revision_service
from trimtab_operator.resources.serving_deployment import serving_deployment, serving_template

_LOOK_FOR_LEFTOVERS_SECONDS = 1.0
_ASK_AGAIN_SECONDS = 30.0  # a server that did not tell how it batches


@dataclass(frozen=True, slots=True)
class Deletion:
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do: apply in this order, delete, then write status, then tell. Empty parts cost no request."""

    apply: tuple[Manifest, ...] = ()
    delete: tuple[Deletion, ...] = ()
    status: Manifest | None = None
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The revision to bring in, if any, and the verdict that chose it."""

    gate: Gate | None = None
    target: Revision | None = None
    to_create: tuple[Manifest, ...] = ()
    rejection: Rejection | None = None


def decide(observed: Observed, now: datetime) -> Decision:
    """Return everything that should be done now."""
    try:
        spec = ModelDeploymentSpec.parse(observed.parent.spec)
    except InvalidSpec as error:
        return Decision(status=summarize_invalid(observed.parent, str(error), now))
    if observed.leftovers and not observed.serves:
        # They have the names that ours will have, and the garbage collector takes them away under our hands.
        status = summarize_leftovers(observed, now)
        return Decision(status=status, requeue_after=_LOOK_FOR_LEFTOVERS_SECONDS)
    wanted = revisions.wanted_by(spec, observed.parent)
    stable = revisions.stable_name(observed)
    artifact = optimization.assess(observed, wanted, make_plan(spec))
    choice = _choose(spec, observed, wanted, artifact)
    rollout = advance(spec, observed, wanted, stable, choice.target, now)
    summary = Summary(spec, observed, wanted, artifact, choice.gate, rollout, choice.rejection or rollout.rejection)
    status = summarize(summary, now)
    return Decision(
        apply=(*_artifact_children(spec, observed, wanted, artifact, choice), *_serving(summary, choice, now)),
        delete=_obsolete(spec, observed, wanted, rollout),
        status=status,
        events=events_between(observed.parent.status, status),
        requeue_after=_earliest(
            rollout.requeue_after,
            _warmth_left(spec, observed, now),
            _ASK_AGAIN_SECONDS if batching.pod_to_ask(observed) else None,
        ),
    )


def plan_to_look_up(observed: Observed) -> Plan | None:
    """Return the plan whose artifact the registry should be asked for: one that no revision and no Job answers."""
    try:
        spec = ModelDeploymentSpec.parse(observed.parent.spec)
    except InvalidSpec:
        return None
    wanted = revisions.wanted_by(spec, observed.parent)
    plan = make_plan(spec)
    artifact = optimization.assess(observed, wanted, plan)
    is_open = artifact.stage is Stage.NEEDED or (artifact.stage is Stage.FAILED and artifact.job is None)
    return plan if is_open else None


def revision_to_sample(observed: Observed) -> str | None:
    """Return the candidate whose counters the decision will ask for: one that already has a share of the traffic."""
    traffic = observed.traffic
    return traffic.candidate if traffic and traffic.candidate and traffic.selected != traffic.stable else None


def _choose(spec: ModelDeploymentSpec, observed: Observed, wanted: Wanted, artifact: Optimization) -> Choice:
    """Hold the artifact against the gate, and find the revision that the verdict allows."""
    recorded = observed.revision(wanted.name)
    if recorded is None:
        if artifact.stage is not Stage.MADE or artifact.result is None:
            return Choice()
        made = _record(spec, observed, wanted.name, wanted.identity, _artifact_of(artifact.result))
        return Choice(to_create=(made,))
    gate = judge(spec.evaluation, recorded.spec.artifact.metrics)
    if gate.passed:
        return _unless_rejected(gate, recorded, wanted)
    if spec.evaluation and spec.evaluation.on_failure is GateFailure.SERVE_UNOPTIMIZED:
        return _fall_back(spec, observed, wanted, gate, recorded)
    reason = "GateFailed" if gate.passed is False else "GateNotComputable"
    return Choice(gate, rejection=Rejection(key=wanted.rejection_key, reason=reason, message=gate.message))


def _unless_rejected(gate: Gate, revision: Revision, wanted: Wanted) -> Choice:
    rejection = revision.rejection
    if rejection and rejection.key == wanted.rejection_key:
        return Choice(gate, rejection=rejection)
    return Choice(gate, target=revision)


def _fall_back(spec: ModelDeploymentSpec, observed: Observed, wanted: Wanted, gate: Gate, recorded: Revision) -> Choice:
    """Serve the source unoptimized: a revision of its own, made from the same record."""
    existing = observed.revision(wanted.fallback_name)
    if existing:
        return _unless_rejected(gate, existing, wanted)
    image = recorded.spec.artifact.unoptimized_image
    if image is None:
        message = f"{gate.message}; the unoptimized source was not published, so there is nothing to fall back to"
        return Choice(gate, rejection=Rejection(key=wanted.rejection_key, reason="GateFailed", message=message))
    source = recorded.spec.artifact.model_copy(update={"image": image, "metrics": (), "passes": ()})
    made = _record(spec, observed, wanted.fallback_name, wanted.fallback_identity, source)
    return Choice(gate, to_create=(made,))


def _record(
    spec: ModelDeploymentSpec, observed: Observed, name: str, identity: str, artifact: RevisionArtifact
) -> Manifest:
    """Return the revision of an artifact, with the pods that this operator makes for it."""
    background = background_of(spec, artifact.resolved)
    record = ModelRevisionSpec(
        deployment=observed.parent.name,
        identity=identity,
        number=revisions.next_number(observed.revisions),
        artifact=artifact,
        template=serving_template(observed.parent, observed.settings, name, artifact.image, spec.runtime, background),
    )
    return new_model_revision(observed.parent, name, record)


def _artifact_of(result: OptimizationResult) -> RevisionArtifact:
    return RevisionArtifact(
        image=result.artifact,
        plan=result.plan,
        resolved=result.resolved,
        metrics=result.metrics,
        passes=result.passes,
        search=result.search,
        unoptimized_image=result.unoptimized.artifact if result.unoptimized else None,
    )


def _artifact_children(
    spec: ModelDeploymentSpec, observed: Observed, wanted: Wanted, artifact: Optimization, choice: Choice
) -> tuple[Manifest, ...]:
    if artifact.stage is Stage.NEEDED and not spec.paused:
        return (optimize_job(observed.parent, observed.settings, spec, wanted, make_plan(spec)),)
    return choice.to_create


def _serving(summary: Summary, choice: Choice, now: datetime) -> tuple[Manifest, ...]:
    """Revisions with their marks first, then the Service, then pods: a crash in between repeats the same switch."""
    observed, rollout = summary.observed, summary.rollout
    found: list[Manifest] = []
    for revision in observed.revisions:
        found.append(model_revision(observed.parent, revision, _marks(summary, choice, revision, now)))
    if rollout.selected or rollout.stable or rollout.candidate:
        found.append(main_service(observed.parent, rollout.stable, rollout.candidate, rollout.selected))
    deadline = summary.spec.progress_deadline_seconds
    for revision in observed.revisions:
        replicas = _replicas(summary, revision, now)
        if replicas is not None:
            found.append(revision_service(observed.parent, revision))
            found.append(serving_deployment(observed.parent, revision, replicas, deadline))
    return (*found, *_explaining(summary))


def _explaining(summary: Summary) -> Iterator[Manifest]:
    """Yield the explainers of the revisions that serve, and those of others without pods."""
    observed, spec = summary.observed, summary.spec
    for revision in observed.revisions:
        wanted = spec.explainer is not None and spec.replicas > 0 and can_ask(revision)
        # The candidate's too: its servers get requests, and when it is promoted there is no gap.
        replicas = int(wanted and revision.name in (summary.rollout.stable, summary.rollout.candidate))
        if replicas or observed.explainer(revision.name) is not None:
            yield from explainer(observed.parent, observed.settings, spec, revision, replicas)


def _marks(summary: Summary, choice: Choice, revision: Revision, now: datetime) -> Marks:
    """Return what a revision is to remember of itself."""
    rollout = summary.rollout
    marks = Marks(revision.stable_since, revision.retired_at, revision.rejection)
    if revision.name == rollout.stable and (rollout.promoted or not revision.stable_since):
        marks = replace(marks, stable_since=now, retired_at=None)
    elif revision.name == rollout.retired:
        marks = replace(marks, retired_at=now)
    elif rollout.promoted:
        # Left by a return, not by a promotion: nothing keeps it warm.
        marks = replace(marks, retired_at=None if revision.name == summary.left else marks.retired_at)
    target = choice.target.name if choice.target else None
    if rollout.rejection and revision.name == target:
        return replace(marks, rejection=rollout.rejection)
    meant = revision.name in (summary.wanted.name, summary.wanted.fallback_name)
    return marks if meant else replace(marks, rejection=None)


def _replicas(summary: Summary, revision: Revision, now: datetime) -> int | None:
    """Return the pods a revision is to have; None where it never had any and needs none."""
    observed, rollout = summary.observed, summary.rollout
    if revision.name in rollout.pods:
        return rollout.pods[revision.name]
    serving = observed.serving(revision.name)
    if not serving.revision:
        return None
    traffic = observed.traffic
    exposed = traffic is None or traffic.selected in (None, revision.name)
    shares = rollout.weight > 0 and rollout.stable is not None
    warm = not shares and _warm_until(summary.spec, revision, observed.revisions) > now.timestamp()
    # Never take pods from a revision that the Service, as last seen, still sends traffic to.
    return serving.replicas if warm or (exposed and not _never_selected(summary, revision)) else 0


def _never_selected(summary: Summary, revision: Revision) -> bool:
    """Tell a third revision from the pair that shares the traffic: while it has pods, the Service is kept narrow."""
    traffic = summary.observed.traffic
    pair = (traffic.stable, traffic.candidate) if traffic else ()
    return bool(traffic) and revision.name not in pair


def _warm_until(spec: ModelDeploymentSpec, revision: Revision, all_revisions: tuple[Revision, ...]) -> float:
    """Return until when a revision keeps its pods for a return: only the one that the last promotion left does.

    Were all of them kept, every edit within the delay would hold its own share of the cluster.
    """
    retired = revision.retired_at
    if retired is None or any(item.retired_at and item.retired_at > retired for item in all_revisions):
        return 0.0
    return retired.timestamp() + spec.strategy.canary.scale_down_delay_seconds


def _warmth_left(spec: ModelDeploymentSpec, observed: Observed, now: datetime) -> float | None:
    """Return the seconds until the next warm revision loses its pods."""
    with_pods = [item for item in observed.revisions if observed.serving(item.name).replicas]
    left = [_warm_until(spec, item, observed.revisions) - now.timestamp() for item in with_pods]
    return min((seconds for seconds in left if seconds > 0), default=None)


def _obsolete(spec: ModelDeploymentSpec, observed: Observed, wanted: Wanted, rollout: Rollout) -> tuple[Deletion, ...]:
    """Return what nothing needs: Jobs of other specs, and revisions beyond the history limit without pods."""
    current = optimization.job_of(observed, wanted)
    jobs = [Deletion("Job", job.name) for job in observed.jobs if current is None or job.name != current.name]
    needed = {wanted.name, wanted.fallback_name, rollout.stable, rollout.candidate, rollout.retired}
    with_pods = {item.revision for item in observed.servings if item.pods or item.replicas}
    keep = frozenset(name for name in needed | with_pods if name)
    old = revisions.beyond_history(observed.revisions, keep, spec.revision_history_limit)
    return (*jobs, *(Deletion("ModelRevision", item.name) for item in old))


def _earliest(*seconds: float | None) -> float | None:
    return min((value for value in seconds if value is not None), default=None)
