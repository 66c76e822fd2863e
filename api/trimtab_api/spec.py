"""The spec of a ModelDeployment, as the API server stores it (defaults filled in, schema and CEL checked).

The CRD in crds/ is what users meet; tests/unit/api holds these types against it, field by field.
"""

from enum import StrEnum
from typing import Any

from pydantic import Field, model_validator

from trimtab_api.contract import Contract


class ModelFormat(StrEnum):
    PYTORCH = "pytorch"
    ONNX = "onnx"


class SecretRef(Contract):
    name: str


class ModelSource(Contract):
    """Where the trained model is, as the user has it."""

    uri: str
    format: ModelFormat = ModelFormat.PYTORCH
    allow_pickle: bool = False
    secret_ref: SecretRef | None = None


class Convert(Contract):
    to: str = "onnx"


class Calibration(Contract):
    uri: str
    samples: int = 256


class Quantize(Contract):
    """Without a mode: dynamic for int8, weights for every other type. Blocks are for weights only."""

    dtype: str = "int8"
    mode: str | None = None
    calibration: Calibration | None = None
    block_size: int | None = None
    symmetric: bool | None = None


class OptimizationPass(Contract):
    """One step of a plan. Exactly one of the fields is set; its name is the name of the pass."""

    convert: Convert | None = None
    quantize: Quantize | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "OptimizationPass":
        if len(self.to_dict()) != 1:
            raise ValueError("set exactly one pass per item")
        return self

    @property
    def kind(self) -> str:
        """Return the name of the pass that is set, such as `quantize`."""
        return next(iter(self.to_dict()))


class NoEffect(StrEnum):
    WARN = "Warn"
    FAIL = "Fail"


class Optimization(Contract):
    passes: tuple[OptimizationPass, ...] = ()
    on_no_effect: NoEffect = NoEffect.WARN
    resources: dict[str, Any] | None = None
    timeout_seconds: int = 3600


class GateFailure(StrEnum):
    BLOCK = "Block"
    SERVE_UNOPTIMIZED = "ServeUnoptimized"


class GateMetric(Contract):
    """A limit on one measured figure: absolute (`min`, `max`), or against the source (`maxDrop`, `maxRatio`)."""

    name: str
    min: float | None = None
    max: float | None = None
    max_drop: float | None = None
    max_ratio: float | None = None


class Evaluation(Contract):
    data: str
    metrics: tuple[GateMetric, ...] = ()
    on_failure: GateFailure = GateFailure.BLOCK


class Batching(Contract):
    max_batch_size: int = 32
    max_delay_ms: float = 0


class Runtime(Contract):
    protocols: tuple[str, ...] = ("rest", "grpc")
    batching: Batching = Batching()
    resources: dict[str, Any] | None = None
    pod_template: dict[str, Any] | None = None


class Pause(Contract):
    """Without a duration: wait for a person."""

    duration_seconds: int | None = None


class AnalysisMetric(Contract):
    name: str
    max: float


class Analysis(Contract):
    duration_seconds: int = 60
    min_requests: int = 100
    metrics: tuple[AnalysisMetric, ...]


class Step(Contract):
    """One step of a canary. Exactly one of the fields is set."""

    set_weight: int | None = None
    pause: Pause | None = None
    analysis: Analysis | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "Step":
        if len(self.to_dict()) != 1:
            raise ValueError("set exactly one kind per step")
        return self


class Canary(Contract):
    steps: tuple[Step, ...] = ()
    scale_down_delay_seconds: int = 600
    rollback_window: int = 3


class Strategy(Contract):
    canary: Canary = Canary()


class ModelDeploymentSpec(Contract):
    """What a user writes. Source of truth of the schema: crds/modeldeployments.yaml."""

    model: ModelSource
    optimization: Optimization = Optimization()
    evaluation: Evaluation | None = None
    runtime: Runtime = Runtime()
    replicas: int = Field(default=1, ge=0)
    strategy: Strategy = Strategy()
    revision_history_limit: int = 10
    progress_deadline_seconds: int = 600
    paused: bool = False
