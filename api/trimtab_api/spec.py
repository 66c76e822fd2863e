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
    HUGGINGFACE = "huggingface"
    LITERT = "litert"
    TORCH_EXPORT = "torch-export"
    TORCHSCRIPT = "torchscript"
    GENAI = "genai"
    COLLECTION = "collection"

    @property
    def is_program(self) -> bool:
        """Return whether a model of this format has weights that can be trained, but no layers that can be changed."""
        return self in (ModelFormat.TORCH_EXPORT, ModelFormat.TORCHSCRIPT)

    @property
    def is_served(self) -> bool:
        """Return whether a model of this format can be served as it is."""
        return self in (ModelFormat.ONNX, ModelFormat.LITERT, ModelFormat.GENAI, ModelFormat.COLLECTION)


class Target(StrEnum):
    """What a conversion gives. `savedmodel` serves a LiteRT file and keeps the SavedModel beside it.

    `genai` is a folder of ONNX Runtime GenAI, out of which text is generated.
    """

    ONNX = "onnx"
    LITERT = "litert"
    SAVEDMODEL = "savedmodel"
    GENAI = "genai"

    @property
    def needs_tensorflow(self) -> bool:
        """Return whether TensorFlow makes it."""
        return self in (Target.LITERT, Target.SAVEDMODEL)


class SecretRef(Contract):
    name: str


class ModelSource(Contract):
    """Where the trained model is, as the user has it."""

    uri: str
    format: ModelFormat = ModelFormat.PYTORCH
    allow_pickle: bool = False
    secret_ref: SecretRef | None = None


class Convert(Contract):
    to: Target = Target.ONNX


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
    full_range: bool | None = None


class FineTune(Contract):
    """Training on labels, to win back what pruning cost."""

    data: str
    epochs: int = 1
    batch_size: int = 64
    learning_rate: float = 0.001


class Prune(Contract):
    """structured: channels are taken out, and tensors get smaller. unstructured: weights become zero, saved sparse."""

    structure: str = "structured"
    method: str = "l2"
    amount: float
    scope: str = "layer"
    ignored_layers: tuple[str, ...] = ()
    round_to: int | None = None
    attention_heads: bool | None = None
    iterations: int | None = None
    fine_tune: FineTune | None = None

    @property
    def trains(self) -> bool:
        """Return whether this needs the module itself, not only its weights."""
        return self.structure == "structured" or self.fine_tune is not None


class Clip(Contract):
    """Weights beyond this percentile of their layer's magnitudes are set to it."""

    percentile: float
    ignored_layers: tuple[str, ...] = ()


class PackageRef(Contract):
    """A model package beside the source: a teacher or a student."""

    uri: str


class FeatureMatch(Contract):
    """Two layers, by name, whose outputs are to be alike."""

    student: str
    teacher: str
    match: str = "values"
    weight: float = 1.0


class QuantizationAware(Contract):
    """The type that weights are rounded to while training, as the `quantize` pass will store them."""

    dtype: str = "int8"
    block_size: int | None = None
    symmetric: bool | None = None


class Distill(Contract):
    """Training to answer as a teacher does. Without a teacher it is the source; without a student the model so far."""

    data: str
    epochs: int = 5
    batch_size: int = 64
    learning_rate: float = 0.001
    temperature: float = 2.0
    alpha: float = 0.5
    teacher: PackageRef | None = None
    student: PackageRef | None = None
    features: tuple[FeatureMatch, ...] = ()
    quantization: QuantizationAware | None = None
    patience: int | None = None
    checkpoint_seconds: int = 60


class OptimizationPass(Contract):
    """One step of a plan. Exactly one kind is set; a `name` is for a search to take it or leave it out."""

    name: str | None = None
    prune: Prune | None = None
    clip: Clip | None = None
    distill: Distill | None = None
    convert: Convert | None = None
    quantize: Quantize | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "OptimizationPass":
        if len(self.to_dict().keys() - {"name"}) != 1:
            raise ValueError("set exactly one pass per item")
        return self

    @property
    def kind(self) -> str:
        """Return the kind of the pass that is set, such as `quantize`."""
        return next(key for key in self.to_dict() if key != "name")

    @property
    def data_uri(self) -> str | None:
        """Return the data that the pass reads, if it reads any."""
        if self.prune and self.prune.fine_tune:
            return self.prune.fine_tune.data
        if self.distill:
            return self.distill.data
        return self.quantize.calibration.uri if self.quantize and self.quantize.calibration else None

    @property
    def package_uris(self) -> tuple[str, ...]:
        """Return the model packages that the pass reads beside the source."""
        beside = (self.distill.teacher, self.distill.student) if self.distill else ()
        return tuple(item.uri for item in beside if item)

    @property
    def needs_module(self) -> bool:
        """Return whether the pass works on a PyTorch module, so that a conversion can only come after it."""
        return bool(self.distill or (self.prune and self.prune.trains))


class Auto(Contract):
    objective: str = "smallest"
    max_trials: int = 12


class Search(Contract):
    """Which of the named passes to take, found by trying. Exactly one of the fields is set."""

    try_in_order: tuple[tuple[str, ...], ...] | None = None
    auto: Auto | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "Search":
        if len(self.to_dict()) != 1:
            raise ValueError("set exactly one of tryInOrder and auto")
        return self


class NoEffect(StrEnum):
    WARN = "Warn"
    FAIL = "Fail"


class Optimization(Contract):
    passes: tuple[OptimizationPass, ...] = ()
    search: Search | None = None
    seed: int = 0
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
    tolerance: float | None = None


class Engine(Contract):
    """Another engine with an API as OpenAI's, such as vLLM, in pods of servers; `probe_path` tells when it is ready."""

    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    port: int = 8000
    probe_path: str = "/health"
    resources: dict[str, Any] | None = None


class Runtime(Contract):
    protocols: tuple[str, ...] = ("rest", "grpc")
    batching: Batching = Batching()
    workers: int | None = None
    engine: Engine | None = None
    resources: dict[str, Any] | None = None
    pod_template: dict[str, Any] | None = None


class Explainer(Contract):
    """A pod that explains answers of a revision that serves."""

    method: str = "shap"
    samples: int = 1000
    timeout_seconds: int = 30
    background_rows: int = 16
    resources: dict[str, Any] | None = None


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
    explainer: Explainer | None = None
    replicas: int = Field(default=1, ge=0)
    strategy: Strategy = Strategy()
    revision_history_limit: int = 10
    progress_deadline_seconds: int = 600
    paused: bool = False
