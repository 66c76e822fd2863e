"""What a Job answers: its result in the termination message, and the report inside the artifact."""

from typing import Final

from trimtab_api.contract import Contract

# Kubernetes keeps at most this many bytes of a termination message.
TERMINATION_MESSAGE_LIMIT: Final = 4096

# Exit codes of the Job: the pod failure policy tells "do not try again" from "try again" by them.
EXIT_USER_ERROR: Final = 42
EXIT_TRANSIENT: Final = 1

# Measured for every artifact; a gate sets limits on them. Times are process CPU milliseconds of one row, one thread.
METRIC_ACCURACY: Final = "accuracy"
METRIC_AGREEMENT: Final = "agreement"
METRIC_LATENCY_P95: Final = "latencyP95Ms"
METRIC_SIZE: Final = "sizeBytes"


class MeasuredMetric(Contract):
    """One figure of an artifact, beside the same figure of the unoptimized source."""

    name: str
    value: float | None = None  # absent where it could not be computed: no verdict, never a pass
    source: float | None = None


class PassReport(Contract):
    name: str
    state: str  # Succeeded | Reused
    seconds: float
    size_bytes: int
    warning: str | None = None  # what the pass did not achieve, though it succeeded


class Unoptimized(Contract):
    """The source merely converted, published beside the artifact for `onFailure: ServeUnoptimized`."""

    artifact: str
    size_bytes: int


class OptimizationResult(Contract):
    """What the Job made. `artifact` is `repository@sha256:...`; `resolved` maps each URI to the digest read there."""

    artifact: str
    plan: str
    resolved: dict[str, str]
    reused: bool = False
    passes: tuple[PassReport, ...] = ()
    metrics: tuple[MeasuredMetric, ...] = ()
    search: str | None = None  # which variant was taken of how many
    unoptimized: Unoptimized | None = None


class JobFailure(Contract):
    reason: str
    message: str


class JobMessage(Contract):
    """The termination message: exactly one of the two is set."""

    result: OptimizationResult | None = None
    failure: JobFailure | None = None
