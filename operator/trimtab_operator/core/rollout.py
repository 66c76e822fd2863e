"""The rollout: from who serves now and who should, to what the Service selects and how many pods each one has.

Four situations, told apart by facts alone:

    settle   the wanted revision serves, or there is none to bring in: all traffic to the stable one
    first    nothing serves yet: no steps, there is no traffic to lose
    return   the wanted revision served lately: no steps, the switch happens as soon as its pods are ready
    walk     a new revision: the steps of the canary, one after the other

Traffic follows pods: a revision is selected only once its pods are ready, and loses its pods only in a later reconcile
that has seen the Service without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from trimtab_api.contract import digest_of
from trimtab_api.group import ANNOTATION_PROMOTE, ANNOTATION_RESUME
from trimtab_api.revision import Rejection
from trimtab_api.spec import ModelDeploymentSpec, Step
from trimtab_operator.core.analysis import AnalysisState, analyse, read_state
from trimtab_operator.core.observed import Observed, Revision
from trimtab_operator.core.revisions import Wanted, comes_back_at_once
from trimtab_operator.core.scale import PodNumbers, pods_for_weight
from trimtab_operator.core.times import read_time, write_time

EVERY_POD = None  # what the Service selects while two revisions share the traffic

_LOOK_AGAIN_SECONDS = 2.0  # while an analysis collects requests


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a candidate has come: the one thing that cannot be recomputed, so it is kept in status."""

    candidate: str
    step: int
    step_started: datetime
    started: datetime
    steps_key: str


@dataclass(frozen=True, slots=True)
class Rollout:
    """The outcome of one look. `pods` holds the replicas of the revisions that take part."""

    stable: str | None
    reason: str
    message: str
    candidate: str | None = None
    selected: str | None = None
    weight: int = 0
    pods: Mapping[str, int] = field(default_factory=dict)
    progress: Progress | None = None
    analysis: AnalysisState | None = None
    promoted: bool = False
    retired: str | None = None  # left by a promotion: it stays warm
    rejection: Rejection | None = None
    late: bool = False
    requeue_after: float | None = None


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything a step may ask about."""

    spec: ModelDeploymentSpec
    observed: Observed
    wanted: Wanted
    stable: str | None
    target: Revision
    now: datetime

    @property
    def steps(self) -> tuple[Step, ...]:
        return self.spec.strategy.canary.steps

    @property
    def ready(self) -> int:
        return self.observed.serving(self.target.name).ready

    @property
    def shares_traffic(self) -> bool:
        """Tell whether the Service already sends a share of the traffic to this candidate."""
        traffic = self.observed.traffic
        return bool(traffic and traffic.candidate == self.target.name and traffic.selected != self.stable)

    @property
    def alone(self) -> bool:
        """Tell whether no third revision has pods: a Service that selects every pod would send it traffic."""
        pair = {self.stable, self.target.name}
        return all(item.pods == 0 for item in self.observed.servings if item.revision not in pair)

    def weight_at(self, step: int) -> int:
        """Return the weight in force at a step: that of the last setWeight up to it."""
        weights = [item.set_weight for item in self.steps[: step + 1] if item.set_weight is not None]
        return weights[-1] if weights else 0

    def trouble(self) -> str:
        """Say why the candidate's pods are not ready, as far as Kubernetes tells."""
        found = (pod.trouble for pod in self.observed.pods if pod.revision == self.target.name and not pod.job)
        return next((text for text in found if text), "")


def advance(
    spec: ModelDeploymentSpec,
    observed: Observed,
    wanted: Wanted,
    stable: str | None,
    target: Revision | None,
    now: datetime,
) -> Rollout:
    """Return where traffic and pods should be now. `target` is None while there is nothing to bring in."""
    if target is None or target.name == stable:
        return settle(spec, stable)
    situation = Situation(spec, observed, wanted, stable, target, now)
    if stable is None:
        return _first(situation)
    progress = _read_progress(situation)
    walking = progress is not None and progress.candidate == target.name
    window = spec.strategy.canary.rollback_window
    if not walking and comes_back_at_once(target, observed.revisions, stable, window):
        return _return(situation)
    return _walk(situation, progress if walking else None)


def settle(spec: ModelDeploymentSpec, stable: str | None) -> Rollout:
    """Send everything to the stable revision."""
    pods = {stable: spec.replicas} if stable else {}
    return Rollout(stable, "Stable", "the stable revision serves", selected=stable, pods=pods)


def _first(situation: Situation) -> Rollout:
    name, replicas = situation.target.name, situation.spec.replicas
    progress = _progress(situation)
    rollout = Rollout(None, "FirstRevision", _waiting(situation, replicas), name, name, 100, {name: replicas}, progress)
    if situation.ready >= replicas:
        return replace(rollout, stable=name, candidate=None, promoted=True, progress=None)
    return _mind_deadline(situation, rollout, progress)


def _return(situation: Situation) -> Rollout:
    name, stable, replicas = situation.target.name, situation.stable, situation.spec.replicas
    pods = {name: replicas, str(stable): replicas}
    if situation.ready >= replicas:
        return Rollout(name, "RolledBack", f"{name} serves again", selected=name, pods=pods, promoted=True)
    message = f"going back to {name}: {_waiting(situation, replicas)}"
    return Rollout(stable, "RollingBack", message, name, stable, 0, pods)


def _walk(situation: Situation, progress: Progress | None) -> Rollout:
    analysis = read_state(situation.observed.parent.status.get("analysis")) if progress else None
    progress = progress or _new_progress(situation)
    if situation.observed.parent.annotations.get(ANNOTATION_PROMOTE) == situation.target.name:
        progress = replace(progress, step=len(situation.steps))
    while progress.step < len(situation.steps):
        rollout = _take_step(situation, progress, analysis)
        if rollout is not None:
            return rollout
        progress, analysis = replace(progress, step=progress.step + 1, step_started=situation.now), None
    return _promote(situation, progress)


def _take_step(situation: Situation, progress: Progress, analysis: AnalysisState | None) -> Rollout | None:
    """Return the rollout while the step lasts, None once it is over."""
    step = situation.steps[progress.step]
    weight = situation.weight_at(progress.step)
    if situation.spec.paused:
        held = _at_weight(situation, progress, weight if situation.shares_traffic else 0)
        return replace(held, reason="Paused", message="spec.paused is set; the rollout holds where it is")
    rollout = _at_weight(situation, progress, weight)
    if step.set_weight is not None:
        return _set_weight(situation, progress, rollout)
    if step.pause is not None:
        return _pause(situation, progress, rollout, step.pause.duration_seconds)
    return _analysis(situation, progress, rollout, analysis)


def _set_weight(situation: Situation, progress: Progress, rollout: Rollout) -> Rollout | None:
    needed = _numbers(situation, rollout.weight)
    stable = situation.observed.serving(situation.stable)
    in_place = situation.shares_traffic and situation.ready >= needed.candidate and stable.replicas == needed.stable
    if in_place:
        return None
    waiting = f"{_step_text(situation, progress)}: weight {rollout.weight}: {_waiting(situation, needed.candidate)}"
    return _mind_deadline(situation, replace(rollout, message=waiting), progress)


def _pause(situation: Situation, progress: Progress, rollout: Rollout, seconds: int | None) -> Rollout | None:
    token = f"{situation.target.name}/{progress.step}"
    if situation.observed.parent.annotations.get(ANNOTATION_RESUME) == token:
        return None
    text = _step_text(situation, progress)
    if seconds is None:
        how = f"kubectl annotate mdeploy/{situation.observed.parent.name} --overwrite {ANNOTATION_RESUME}={token}"
        return replace(rollout, reason="Paused", message=f"{text}: waits for a person; to go on: {how}")
    left = seconds - (situation.now - progress.step_started).total_seconds()
    if left <= 0:
        return None
    message = f"{text}: pause of {seconds} s since {write_time(progress.step_started)}"
    return _mind_readiness(situation, replace(rollout, reason="Paused", message=message, requeue_after=left))


def _analysis(
    situation: Situation, progress: Progress, rollout: Rollout, before: AnalysisState | None
) -> Rollout | None:
    step = situation.steps[progress.step].analysis
    assert step is not None
    state = analyse(step, before, situation.observed.sample, situation.now)
    if state and state.verdict:
        return None
    text = _step_text(situation, progress)
    if state and state.verdict is False:
        return _reject(situation, "AnalysisFailed", f"{text}: {state.message}")
    message = f"{text}: {state.message if state else 'analysis: no metrics from the pods yet'}"
    rollout = replace(rollout, analysis=state, message=message, requeue_after=_LOOK_AGAIN_SECONDS)
    return _mind_readiness(situation, rollout)


def _promote(situation: Situation, progress: Progress) -> Rollout:
    name, stable, replicas = situation.target.name, situation.stable, situation.spec.replicas
    rollout = _at_weight(situation, progress, situation.weight_at(len(situation.steps)))
    rollout = replace(rollout, pods={**rollout.pods, name: replicas})
    if situation.spec.paused:
        return replace(rollout, reason="Paused", message="spec.paused is set; the promotion waits")
    if situation.ready < replicas:
        waiting = replace(rollout, message=f"promotion: {_waiting(situation, replicas)}")
        return _mind_deadline(situation, waiting, progress)
    pods = {name: replicas, str(stable): replicas}
    return Rollout(name, "Promoted", f"{name} serves", selected=name, pods=pods, promoted=True, retired=stable)


def _at_weight(situation: Situation, progress: Progress, weight: int) -> Rollout:
    """Return the rollout that holds `weight`, as far as the pods allow it by now."""
    name, stable = situation.target.name, situation.stable
    needed = _numbers(situation, weight)
    filled = situation.ready >= needed.candidate
    selected = stable
    if weight > 0 and (situation.shares_traffic or (filled and situation.alone)):
        selected = name if weight >= 100 and filled else EVERY_POD
    # The stable revision gives pods away only after the candidate's carry their share.
    keeps = needed.stable if situation.shares_traffic and filled else situation.spec.replicas
    pods = {name: needed.candidate, str(stable): keeps}
    text = _step_text(situation, progress)
    return Rollout(stable, "RolloutStep", text, name, selected, weight, pods, progress)


def _numbers(situation: Situation, weight: int) -> PodNumbers:
    return pods_for_weight(situation.spec.replicas, weight)


def _mind_deadline(situation: Situation, rollout: Rollout, progress: Progress) -> Rollout:
    """Give a candidate up whose pods are not ready in time. Where nothing serves yet there is nothing to go back to."""
    deadline = situation.spec.progress_deadline_seconds
    left = deadline - (situation.now - progress.step_started).total_seconds()
    if left > 0:
        return replace(rollout, requeue_after=left)
    message = f"no progress for {deadline} s: {rollout.message}"
    if situation.stable is None:
        return replace(rollout, message=message, late=True)
    return _reject(situation, "ProgressDeadlineExceeded", message)


def _mind_readiness(situation: Situation, rollout: Rollout) -> Rollout:
    """Give a candidate up that lost its pods in the middle of a step and does not get them back."""
    since = situation.observed.serving(situation.target.name).unavailable_since
    deadline = situation.spec.progress_deadline_seconds
    if since is None or (situation.now - since).total_seconds() < deadline:
        return rollout
    return _reject(situation, "ProgressDeadlineExceeded", f"pods not ready for {deadline} s: {situation.trouble()}")


def _reject(situation: Situation, reason: str, message: str) -> Rollout:
    rejection = Rejection(key=situation.wanted.rejection_key, reason=reason, message=message)
    return replace(settle(situation.spec, situation.stable), rejection=rejection, reason=reason, message=message)


def _waiting(situation: Situation, needed: int) -> str:
    text = f"{min(situation.ready, needed)} of {needed} pods of {situation.target.name} are ready"
    trouble = situation.trouble()
    return f"{text}; {trouble}" if trouble else text


def _step_text(situation: Situation, progress: Progress) -> str:
    return f"step {min(progress.step + 1, len(situation.steps))}/{len(situation.steps)}"


def _progress(situation: Situation) -> Progress:
    found = _read_progress(situation)
    return found if found and found.candidate == situation.target.name else _new_progress(situation)


def _new_progress(situation: Situation) -> Progress:
    now = situation.now
    return Progress(situation.target.name, 0, now, now, _steps_key(situation.steps))


def _read_progress(situation: Situation) -> Progress | None:
    """Read the progress from status. Edited steps start anew: an index into other steps means nothing."""
    written: Mapping[str, Any] = situation.observed.parent.status.get("rollout") or {}
    started, step_started = read_time(written.get("startedAt")), read_time(written.get("stepStartedAt"))
    if not (written.get("candidate") and started and step_started):
        return None
    key = str(written.get("stepsKey", ""))
    if key != _steps_key(situation.steps):
        return None
    return Progress(str(written["candidate"]), int(written.get("stepIndex", 0)), step_started, started, key)


def _steps_key(steps: tuple[Step, ...]) -> str:
    return digest_of([step.to_dict() for step in steps])[7:15]
