"""What a Job answers: its result in the termination message, and the report inside the artifact."""

from typing import Final

from trimtab_api.contract import Contract

# Kubernetes keeps at most this many bytes of a termination message.
TERMINATION_MESSAGE_LIMIT: Final = 4096

# Exit codes of the Job: the pod failure policy tells "do not try again" from "try again" by them.
EXIT_USER_ERROR: Final = 42
EXIT_TRANSIENT: Final = 1

# What a gate sets limits on; which are measured depends on data and model. A package may add its own.
# Times are process CPU milliseconds of one row, one thread.
METRIC_ACCURACY: Final = "accuracy"
METRIC_AGREEMENT: Final = "agreement"
METRIC_RMSE: Final = "rmse"
METRIC_MEAN_ABSOLUTE_ERROR: Final = "meanAbsoluteError"
METRIC_PERPLEXITY: Final = "perplexity"
METRIC_COSINE: Final = "cosine"
METRIC_RECALL: Final = "recallAt10"
METRIC_LATENCY_P95: Final = "latencyP95Ms"
METRIC_SIZE: Final = "sizeBytes"

# Measured after each pass for report.json alone: a batch as servers run it, and the memory that a model takes.
METRIC_LATENCY_BATCH_P95: Final = "latencyBatchP95Ms"
METRIC_MEMORY: Final = "memoryBytes"

BUILT_IN_METRICS: Final = frozenset(
    {
        METRIC_ACCURACY,
        METRIC_AGREEMENT,
        METRIC_RMSE,
        METRIC_MEAN_ABSOLUTE_ERROR,
        METRIC_PERPLEXITY,
        METRIC_COSINE,
        METRIC_RECALL,
        METRIC_LATENCY_P95,
        METRIC_LATENCY_BATCH_P95,
        METRIC_MEMORY,
        METRIC_SIZE,
    }
)

# Names of a package's own metrics.
METRIC_PATTERN: Final = "^[a-z][A-Za-z0-9]{0,39}$"


class MeasuredMetric(Contract):
    """One figure of an artifact, beside the same figure of the unoptimized source.

    `low` and `high` are the 95 % interval of `value`. `p_value`: how likely it is that rows which only one of the two
    gets right fall this unevenly, if neither is better.
    """

    name: str
    value: float | None = None  # absent where it could not be computed: no verdict, never a pass
    source: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None


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
