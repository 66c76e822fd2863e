"""The status for people: what is going on, where the traffic is, and why, in conditions with a reason each."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from trimtab_api.gate import Gate, GateRow
from trimtab_api.group import LABEL_DEPLOYMENT
from trimtab_api.report import METRIC_ACCURACY, METRIC_COSINE, METRIC_PERPLEXITY, METRIC_RMSE
from trimtab_api.revision import Rejection
from trimtab_api.spec import ModelDeploymentSpec
from trimtab_operator.core import batching
from trimtab_operator.core.analysis import write_state
from trimtab_operator.core.conditions import Condition, merge
from trimtab_operator.core.observed import Manifest, Observed, Parent
from trimtab_operator.core.optimization import Optimization, Stage
from trimtab_operator.core.revisions import Wanted
from trimtab_operator.core.rollout import Rollout
from trimtab_operator.core.scale import share
from trimtab_operator.core.times import write_time
from trimtab_operator.resources.explainer import can_ask
from trimtab_operator.resources.metadata import LABEL_COMPONENT, SERVER

# What tells how good a model is; data and model decide which of them there is.
_SHOWN_WITHOUT_LIMIT = (METRIC_ACCURACY, METRIC_RMSE, METRIC_PERPLEXITY, METRIC_COSINE)


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything that one reconcile found out."""

    spec: ModelDeploymentSpec
    observed: Observed
    wanted: Wanted
    artifact: Optimization
    gate: Gate | None
    rollout: Rollout
    rejection: Rejection | None

    @property
    def left(self) -> str | None:
        """Return the revision that gives the traffic away in this reconcile."""
        traffic = self.observed.traffic
        return traffic.stable if traffic and traffic.stable != self.rollout.stable else None

    @property
    def stable_ready(self) -> int:
        return self.observed.serving(self.rollout.stable).ready


def summarize(summary: Summary, now: datetime) -> Manifest:
    """Return the whole status; absent facts are absent fields."""
    rollout, parent = summary.rollout, summary.observed.parent
    rows = batching.known(summary.observed, rollout.stable)
    conditions = (
        _ready(summary),
        _artifact_ready(summary),
        _gate_passed(summary),
        _progressing(summary),
        _degraded(summary),
        batching.condition(rows),
        *_explainer_ready(summary),
    )
    status: dict[str, Any] = {
        "observedGeneration": parent.generation,
        "phase": _phase(summary),
        "message": _message(summary),
        "stableRevision": rollout.stable,
        "candidateRevision": rollout.candidate,
        "rejectedRevision": _rejected(summary),
        "currentStepIndex": rollout.progress.step if rollout.progress and rollout.stable else None,
        "replicas": sum(item.pods for item in summary.observed.servings),
        "readyReplicas": summary.stable_ready,
        "selector": f"{LABEL_DEPLOYMENT}={parent.name},{LABEL_COMPONENT}={SERVER}",
        "traffic": _traffic(summary) or None,
        "optimization": _optimization(summary),
        "evaluation": _evaluation(summary),
        "rollout": _progress(rollout),
        "analysis": write_state(rollout.analysis) if rollout.analysis else None,
        "batching": batching.write(rows),
        "url": _url(summary) if rollout.stable else None,
        "conditions": merge(parent.status.get("conditions", []), conditions, parent.generation, now),
    }
    return {key: value for key, value in status.items() if value is not None}


def summarize_invalid(parent: Parent, message: str, now: datetime) -> Manifest:
    """Return the status for a spec that could not be read: everything else stays as it was."""
    degraded = Condition("Degraded", True, "InvalidSpec", message)
    conditions = merge(parent.status.get("conditions", []), (degraded,), parent.generation, now, keep=True)
    fresh = {"observedGeneration": parent.generation, "phase": "Degraded", "message": message}
    return {**parent.status, **fresh, "conditions": conditions}


def summarize_leftovers(observed: Observed, now: datetime) -> Manifest:
    """Return the status while something that belonged to an earlier object of the same name is not gone yet."""
    parent, left = observed.parent, ", ".join(observed.leftovers)
    message = f"waits until what a ModelDeployment {parent.name} owned before is gone: {left}"
    ready = Condition("Ready", False, "LeftoversFound", message)
    conditions = merge(parent.status.get("conditions", []), (ready,), parent.generation, now, keep=True)
    fresh = {"observedGeneration": parent.generation, "phase": "Pending", "message": message}
    return {**parent.status, **fresh, "conditions": conditions}


def _ready(summary: Summary) -> Condition:
    stable = summary.rollout.stable
    if stable is None:
        return Condition("Ready", False, "NoStableRevision", _message(summary))
    if summary.stable_ready == 0 and summary.spec.replicas > 0:
        return Condition("Ready", False, "StableNotReady", f"no pod of {stable} is ready{_trouble(summary)}")
    return Condition("Ready", True, "StableServing", f"{stable} serves")


def _artifact_ready(summary: Summary) -> Condition:
    artifact = summary.artifact
    if artifact.stage is Stage.RECORDED:
        return Condition(
            "ArtifactReady", True, "OptimizationSucceeded", f"the artifact of {summary.wanted.name} is at hand"
        )
    if artifact.failure:
        return Condition("ArtifactReady", False, artifact.failure.reason, artifact.failure.message)
    reasons = {Stage.MADE: "Recording", Stage.RUNNING: "Optimizing", Stage.NEEDED: "Pending"}
    if summary.spec.paused and artifact.stage is Stage.NEEDED:
        return Condition("ArtifactReady", False, "Paused", "spec.paused is set; no Job is started")
    return Condition("ArtifactReady", False, reasons[artifact.stage], artifact.message or "the optimize Job starts")


def _gate_passed(summary: Summary) -> Condition:
    gate = summary.gate
    if gate is None:
        return Condition("GatePassed", None, "NotEvaluated", "the artifact is not there yet")
    if summary.spec.evaluation is None:
        return Condition("GatePassed", True, "NoGate", "the spec sets no limits")
    if gate.passed:
        return Condition("GatePassed", True, "ThresholdsMet", "every limit is met")
    if gate.passed is None:
        return Condition("GatePassed", None, "GateNotComputable", gate.message)
    return Condition("GatePassed", False, "ThresholdsMissed", gate.message)


def _progressing(summary: Summary) -> Condition:
    if summary.artifact.stage in (Stage.NEEDED, Stage.RUNNING, Stage.MADE):
        return Condition("Progressing", True, "Optimizing", _message(summary))
    rollout = summary.rollout
    if rollout.candidate:
        # The message of a running step changes by the second; the condition keeps still until its reason changes.
        return Condition("Progressing", True, rollout.reason, f"{rollout.candidate} is on its way in")
    return Condition("Progressing", False, "Idle", "nothing is on its way")


def _degraded(summary: Summary) -> Condition:
    if summary.rejection:
        text = f"{summary.wanted.name}: {summary.rejection.message}"
        return Condition("Degraded", True, summary.rejection.reason, text)
    if summary.artifact.failure:
        return Condition("Degraded", True, summary.artifact.failure.reason, summary.artifact.failure.message)
    if summary.rollout.late:
        return Condition("Degraded", True, "ProgressDeadlineExceeded", summary.rollout.message)
    return Condition("Degraded", False, "AsExpected", "nothing is wrong")


def _explainer_ready(summary: Summary) -> Iterator[Condition]:
    """Yield whether answers are explained, where that is asked for."""
    if summary.spec.explainer is None:
        return
    stable, observed = summary.rollout.stable, summary.observed
    recorded = observed.revision(stable)
    if recorded is not None and not can_ask(recorded):
        text = f"the pods of {stable} were made by an operator that knew of no explainer; a new revision has one"
        yield Condition("ExplainerReady", False, "ServersTooOld", text)
        return
    found = observed.explainer(stable)
    if found is not None and found.ready:
        yield Condition("ExplainerReady", True, "Explaining", f"answers of {stable} are explained")
        return
    trouble = [pod.trouble for pod in observed.explainer_pods if pod.revision == stable and pod.trouble]
    text = f"no explainer of {stable} is ready" if stable else "nothing serves that could be explained"
    yield Condition("ExplainerReady", False, "NotReady", text + "".join(f": {item}" for item in trouble[:1]))


def _phase(summary: Summary) -> str:
    rollout = summary.rollout
    if summary.rejection or summary.artifact.failure or rollout.late:
        return "Degraded"
    stages = {Stage.NEEDED: "Pending", Stage.RUNNING: "Optimizing", Stage.MADE: "Evaluating"}
    if summary.artifact.stage in stages:
        return (
            "Paused"
            if summary.spec.paused and summary.artifact.stage is Stage.NEEDED
            else stages[summary.artifact.stage]
        )
    if rollout.reason in ("Paused", "RollingBack"):
        return rollout.reason
    if rollout.candidate or rollout.stable is None:
        return "Progressing"
    return "Healthy" if summary.stable_ready >= summary.spec.replicas else "Progressing"


def _message(summary: Summary) -> str:
    if summary.rejection:
        return f"{summary.wanted.name} is held back: {summary.rejection.message}"
    if summary.artifact.failure:
        return summary.artifact.failure.message
    if summary.artifact.stage is not Stage.RECORDED:
        return summary.artifact.message or "the artifact is not there yet"
    return summary.rollout.message


def _rejected(summary: Summary) -> str | None:
    return summary.wanted.name if summary.rejection else None


def _trouble(summary: Summary) -> str:
    name = summary.rollout.stable
    found = [pod.trouble for pod in summary.observed.pods if pod.revision == name and pod.job is None and pod.trouble]
    return f": {found[0]}" if found else ""


def _traffic(summary: Summary) -> list[dict[str, Any]]:
    rollout = summary.rollout
    serves, comes = rollout.stable, rollout.candidate
    if serves is None:
        return []
    if rollout.selected == serves or comes is None:
        return [{"revision": serves, "percent": 100}]
    if rollout.selected == comes:
        return [{"revision": serves, "percent": 0}, {"revision": comes, "percent": 100}]
    percent = share(summary.observed.serving(comes).ready, summary.observed.serving(serves).ready)
    return [{"revision": serves, "percent": 100 - percent}, {"revision": comes, "percent": percent}]


def _optimization(summary: Summary) -> dict[str, Any] | None:
    recorded = summary.observed.revision(summary.wanted.name)
    if recorded is None:
        return None
    artifact = recorded.spec.artifact
    passes = [item.to_dict() for item in artifact.passes]
    found = {"plan": artifact.plan, "artifact": artifact.image, "passes": passes}
    return found | ({"search": artifact.search} if artifact.search else {})


def _evaluation(summary: Summary) -> dict[str, Any] | None:
    gate = summary.gate
    recorded = summary.observed.revision(summary.wanted.name)
    if gate is None or recorded is None or summary.spec.evaluation is None:
        return None
    figures = {item.name: item.to_dict() for item in recorded.spec.artifact.metrics if item.value is not None}
    limited = {row.name: {**figures.get(row.name, {}), **_row(row)} for row in gate.rows}
    others = {name: figures[name] for name in _SHOWN_WITHOUT_LIMIT if name in figures and name not in limited}
    verdict = {} if gate.passed is None else {"passed": gate.passed}
    return {**verdict, "metrics": [*limited.values(), *others.values()]}


def _row(row: GateRow) -> dict[str, Any]:
    written: dict[str, Any] = {"name": row.name, "value": row.value, "source": row.source, "passed": row.passed}
    if row.value is not None and row.source is not None:
        written["drop"] = round(row.source - row.value, 6)
        written["ratio"] = round(row.value / row.source, 6) if row.source else None
    return {key: value for key, value in {**written, "message": row.message or None}.items() if value is not None}


def _progress(rollout: Rollout) -> dict[str, Any] | None:
    progress = rollout.progress
    if progress is None:
        return None
    return {
        "candidate": progress.candidate,
        "stepIndex": progress.step,
        "stepsKey": progress.steps_key,
        "stepStartedAt": write_time(progress.step_started),
        "startedAt": write_time(progress.started),
    }


def _url(summary: Summary) -> dict[str, str]:
    parent = summary.observed.parent
    host = f"{parent.name}.{parent.namespace}.svc"
    return {"rest": f"http://{host}:8080", "grpc": f"{host}:9000"}
