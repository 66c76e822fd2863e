"""The explainer's configuration: from the environment, as the operator sets it, or from flags, as a person does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trimtab_explainer.methods import METHODS
from trimtab_runtime.settings import read_settings

_HELP: Final = {
    "MODEL_DIR": "folder with model.yaml and model.onnx or model.tflite (default /model)",
    "MODEL_NAME": "name of the model (default: the package's)",
    "REVISION": "version that answers carry (default 1)",
    "HOST": "address to listen on (default 0.0.0.0)",
    "EXPLAINER_PORT": "port of REST (default 8081; 0: a free one)",
    "BACKGROUND": "folder with a data.npz: rows that stand in for what is hidden (default none)",
    "BACKGROUND_ROWS": "how many of them (default 16); each answer is asked for as often",
    "METHOD": "shap or lime, where a caller does not say (default shap)",
    "SAMPLES": "answers that a row is explained by, where a caller does not say (default 1000)",
    "MOST_SAMPLES": "more are not allowed (default 20000)",
    "MOST_SECONDS": "for the explanation of one request (default 30)",
    "MOST_ROWS": "of one request (default 16)",
    "THREADS": "threads of one run (default: the CPUs that the container may use)",
}


@dataclass(frozen=True, slots=True)
class ExplainerConfig:
    """What an explainer needs to know. A server that started it has this pid, and reads the port from `descriptor`."""

    model_dir: Path
    model_name: str | None
    revision: str
    host: str
    port: int
    descriptor: int | None
    parent: int | None
    background: Path | None
    background_rows: int
    method: str
    samples: int
    most_samples: int
    most_seconds: float
    most_rows: int
    threads: int | None


def read_config(arguments: Sequence[str], environ: Mapping[str, str]) -> ExplainerConfig:
    """Read flags, then the environment; all have defaults. Raises InvalidSpec naming the variable that is wrong."""
    settings = read_settings(arguments, environ, "trimtab-explainer", "Explain answers of one model.", _HELP)
    return ExplainerConfig(
        model_dir=Path(settings.text("MODEL_DIR", "/model")),
        model_name=settings.text("MODEL_NAME", "") or None,
        revision=settings.text("REVISION", "1"),
        host=settings.text("HOST", "0.0.0.0"),
        port=settings.number("EXPLAINER_PORT", 8081, 0, 65535),
        descriptor=settings.number("EXPLAINER_DESCRIPTOR", 0, 0, 1 << 20) or None,
        parent=settings.number("EXPLAINER_PARENT", 0, 0, 1 << 31) or None,
        background=settings.path("BACKGROUND"),
        background_rows=settings.number("BACKGROUND_ROWS", 16, 1, 1024),
        method=settings.one_of("METHOD", tuple(METHODS)),
        samples=settings.number("SAMPLES", 1000, 1, 10_000_000),
        most_samples=settings.number("MOST_SAMPLES", 20_000, 1, 10_000_000),
        most_seconds=settings.number("MOST_SECONDS", 30.0, 0.1, 3600.0),
        most_rows=settings.number("MOST_ROWS", 16, 1, 4096),
        threads=settings.number("THREADS", 0, 0, 1024) or None,
    )
