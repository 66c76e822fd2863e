"""How far the artifact of the wanted revision is: at hand, being made, to be made, or given up."""

from dataclasses import dataclass
from enum import StrEnum

from pydantic import ValidationError

from trimtab_api.errors import MissingTool
from trimtab_api.plan import Plan
from trimtab_api.report import JobFailure, JobMessage, OptimizationResult
from trimtab_operator.core.observed import Observed, OptimizeJob, Pod, Settings
from trimtab_operator.core.revisions import Wanted

_NO_TENSORFLOW = (
    "LiteRT and SavedModel are made by an image of their own, and this operator was given none; set "
    "images.optimizerTensorflow of the chart, or use `convert: {to: onnx}`"
)


class Stage(StrEnum):
    RECORDED = "Recorded"  # the ModelRevision exists
    MADE = "Made"  # an artifact exists, its ModelRevision does not
    RUNNING = "Running"
    NEEDED = "Needed"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class Optimization:
    stage: Stage
    job: OptimizeJob | None = None
    result: OptimizationResult | None = None
    failure: JobFailure | None = None
    message: str = ""


def assess(observed: Observed, wanted: Wanted, plan: Plan) -> Optimization:
    """Read the state of the artifact from what exists; the Job of the latest retry counts."""
    if observed.revision(wanted.name):
        return Optimization(Stage.RECORDED)
    if observed.found:
        return Optimization(Stage.MADE, result=observed.found.model_copy(update={"reused": True}))
    job = job_of(observed, wanted)
    if job is None:
        return _without_job(observed.settings, plan)
    pods = sorted((pod for pod in observed.pods if pod.job == job.name), key=_last_first, reverse=True)
    if job.succeeded:
        return _succeeded(job, pods)
    if job.failure:
        return Optimization(Stage.FAILED, job, failure=_explain(job.failure, pods))
    return Optimization(Stage.RUNNING, job, message=_what_it_waits_for(pods))


def _without_job(settings: Settings, plan: Plan) -> Optimization:
    """Say whether a Job can be made; the registry is asked for the artifact either way."""
    if settings.optimizer_of(plan):
        return Optimization(Stage.NEEDED)
    return Optimization(Stage.FAILED, failure=JobFailure(reason=MissingTool.reason, message=_NO_TENSORFLOW))


def job_of(observed: Observed, wanted: Wanted) -> OptimizeJob | None:
    """Return the Job that works on the wanted revision under the retry asked for last."""
    return next((job for job in observed.jobs if (job.revision, job.retry) == (wanted.name, wanted.retry)), None)


def _succeeded(job: OptimizeJob, pods: list[Pod]) -> Optimization:
    messages = [read_message(pod.message) for pod in pods]
    result = next((message.result for message in messages if message and message.result), None)
    if result:
        return Optimization(Stage.MADE, job, result=result)
    lost = "the Job finished, but its pod is gone and with it the result; set the retry annotation to run it again"
    return Optimization(Stage.FAILED, job, failure=JobFailure(reason="ResultLost", message=lost))


def _explain(given_up: JobFailure, pods: list[Pod]) -> JobFailure:
    """Prefer the Job's own words; then what Kubernetes knows of its pods."""
    messages = [read_message(pod.message) for pod in pods]
    own = next((message.failure for message in messages if message and message.failure), None)
    if given_up.reason == "DeadlineExceeded":
        text = "the Job ran out of time; raise spec.optimization.timeoutSeconds"
        return JobFailure(reason="DeadlineExceeded", message=text)
    if own:
        return own
    if any(pod.out_of_memory for pod in pods):
        text = "the Job ran out of memory; raise spec.optimization.resources.limits.memory"
        return JobFailure(reason="OutOfMemory", message=text)
    trouble = next((pod.trouble for pod in pods if pod.trouble), None)
    return JobFailure(reason=given_up.reason, message=trouble or given_up.message)


def _what_it_waits_for(pods: list[Pod]) -> str:
    return next((pod.trouble for pod in pods if pod.trouble), "the optimize Job runs")


def read_message(text: str | None) -> JobMessage | None:
    """Read a termination message; None where it is not one of ours (killed before it could write)."""
    try:
        return JobMessage.model_validate_json(text) if text else None
    except ValidationError:
        return None


def _last_first(pod: Pod) -> tuple[bool, float, str]:
    return (pod.started is not None, pod.started.timestamp() if pod.started else 0.0, pod.name)
