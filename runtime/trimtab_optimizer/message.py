"""The termination message: how the Job answers, since it has no access to the API server."""

from pathlib import Path

from trimtab_api.contract import canonical_json
from trimtab_api.errors import TrimtabError
from trimtab_api.report import TERMINATION_MESSAGE_LIMIT, JobFailure, JobMessage, MeasuredMetric, OptimizationResult

_CUT = " [...]"


def success(result: OptimizationResult) -> JobMessage:
    """Return the message of a result; where it is too long, what report.json also says is left out."""
    bare = tuple(MeasuredMetric(name=item.name, value=item.value, source=item.source) for item in result.metrics)
    for shorter in ({}, {"passes": ()}, {"passes": (), "metrics": bare}, {"passes": (), "metrics": ()}):
        message = JobMessage(result=result.model_copy(update=shorter))
        if _size(message) <= TERMINATION_MESSAGE_LIMIT:
            return message
    return failure("InvalidSpec", "the plan names too many or too long URIs for a termination message; shorten them")


def failure(reason: str, text: str) -> JobMessage:
    """Return the message of a failure; a long text keeps its beginning."""
    message = JobMessage(failure=JobFailure(reason=reason, message=text))
    while _size(message) > TERMINATION_MESSAGE_LIMIT:
        text = text.removesuffix(_CUT)
        text = text[: len(text) * 9 // 10] + _CUT
        message = JobMessage(failure=JobFailure(reason=reason, message=text))
    return message


def failure_of(error: TrimtabError) -> JobMessage:
    """Return the message of an error of our own tree."""
    return failure(error.reason, str(error))


def write_message(message: JobMessage, path: Path) -> None:
    """Write the message to the file Kubernetes reads when the container ends."""
    path.write_text(canonical_json(message.to_dict()), encoding="utf-8")


def _size(message: JobMessage) -> int:
    return len(canonical_json(message.to_dict()).encode())
