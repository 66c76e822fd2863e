"""The server's configuration: from the environment, as the operator sets it, or from flags, as a person does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from trimtab_api.errors import InvalidSpec
from trimtab_runtime.settings import read_settings

_HELP: Final = {
    "MODEL_DIR": "folder with model.yaml and model.onnx, model.tflite, genai_config.json or folders (default /model)",
    "MODEL_NAME": "name to serve the model under (default: the package's); those of a collection keep their own",
    "REVISION": "version that answers and metrics carry (default 1)",
    "HOST": "address to listen on (default 0.0.0.0)",
    "REST_PORT": "port of REST, health and metrics (default 8080; 0: a free one)",
    "GRPC_PORT": "port of gRPC (default 9000; 0: a free one)",
    "WORKERS": "processes that share the ports, each with all models (default 1)",
    "PROTOCOLS": "protocols of inference: rest, grpc or both (default rest,grpc)",
    "MAX_BATCH_SIZE": "most rows that run together (default 32); fewer where more do not pay",
    "BATCH_TOLERANCE": "how far a row may differ in company, as a part of the largest output (default 0.0001)",
    "EXECUTOR": "where runs happen: loop (short ones), thread, or auto, as a trial tells (default auto)",
    "GRPC_ENGINE": "lean: our own HTTP/2; grpcio: the common library (default lean)",
    "MAX_DELAY_MS": "how long a request may wait for others (default 0: not at all)",
    "MAX_WAIT_SECONDS": "expected wait above which a request is refused (default 1)",
    "CACHE_MIB": "of a generative model: MiB of keys and values of the tokens that are held (default 256)",
    "ANSWER_TOKENS": "of a generative model: most tokens of an answer, where a caller does not say (default 1024)",
    "DECODER": "of a generative model: auto, together where a trial allows it, or single, one by one (default auto)",
    "INTAKE_MIB": "MiB of requests that may be on their way at once, in each process (default 256)",
    "FAST_PATH": "1: inference calls go past the web framework; 0: through it (default 1)",
    "DRAIN_SECONDS": "how long to go on answering after SIGTERM (default 5)",
    "TLS_CERTIFICATE": "file of the certificate, with which both ports speak TLS (default none)",
    "TLS_KEY": "file of its key",
    "TLS_CLIENT_CA": "file of the authorities that have to have signed callers' certificates (default: none are asked)",
    "READ_TIMEOUT_SECONDS": "in which a request has to have arrived (default 60)",
    "KEEP_ALIVE_SECONDS": "how long a connection may be idle (default 75: callers and proxies close theirs before)",
    "MAX_CONNECTION_AGE_SECONDS": "age at which a connection is asked to end (default 30)",
    "ENGINE": "URL of another engine with an API as OpenAI's, which this server stands before (default none)",
    "ENGINE_PROBE": "its path that tells whether it is ready (default /health)",
    "EXPLAINER": "who explains answers: the URL of a trimtab-explainer, process for one of our own, or none (default)",
    "SHADOW": "URL of a server that gets copies of requests, and whose answers are compared with ours (default none)",
    "SHADOW_PERCENT": "how many of the requests; at most 100 a second are copied (default 10)",
    "SHADOW_TOLERANCE": "how far floats that are no scores of classes may differ, as a part (default 0.01)",
    "ACCESS_LOG": "1: a line of the log for each inference call (default 0)",
    "SERVER_TIMING": "1: answers over REST have a header Server-Timing (default 0)",
    "SPANS": "1: spans of OpenTelemetry, sent and sampled as the variables OTEL_* say (default 0)",
    "THREADS": "threads of one run (default: the CPUs that the container may use, by the number of processes)",
}


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """What a server needs to know. `threads` of None means each process's part of the CPUs."""

    model_dir: Path
    model_name: str | None
    revision: str
    host: str
    rest_port: int
    grpc_port: int
    workers: int
    protocols: frozenset[str]
    max_batch_size: int
    batch_tolerance: float
    executor: str
    grpc_engine: str
    max_delay_seconds: float
    max_wait_seconds: float
    cache_bytes: int
    answer_tokens: int
    decoder: str
    intake_bytes: int
    fast_path: bool
    drain_seconds: float
    tls_certificate: Path | None
    tls_key: Path | None
    tls_client_ca: Path | None
    read_timeout_seconds: float
    keep_alive_seconds: float
    max_connection_age_seconds: float
    engine: str | None
    engine_probe: str
    explainer: str | None
    shadow: str | None
    shadow_percent: float
    shadow_tolerance: float
    access_log: bool
    server_timing: bool
    spans: bool
    threads: int | None


def read_config(arguments: Sequence[str], environ: Mapping[str, str]) -> RuntimeConfig:
    """Read flags, then the environment; all have defaults. Raises InvalidSpec naming the variable that is wrong."""
    description = "Serve a model, or a collection of them, over the Open Inference Protocol."
    settings = read_settings(arguments, environ, "trimtab-runtime", description, _HELP)
    return RuntimeConfig(
        model_dir=Path(settings.text("MODEL_DIR", "/model")),
        model_name=settings.text("MODEL_NAME", "") or None,
        revision=settings.text("REVISION", "1"),
        host=settings.text("HOST", "0.0.0.0"),
        rest_port=settings.number("REST_PORT", 8080, 0, 65535),
        grpc_port=settings.number("GRPC_PORT", 9000, 0, 65535),
        workers=settings.number("WORKERS", 1, 1, 256),
        protocols=_protocols(settings.text("PROTOCOLS", "rest,grpc")),
        max_batch_size=settings.number("MAX_BATCH_SIZE", 32, 1, 1 << 20),
        batch_tolerance=settings.number("BATCH_TOLERANCE", 1e-4, 0.0, 1e9),
        executor=settings.one_of("EXECUTOR", ("auto", "loop", "thread")),
        grpc_engine=settings.one_of("GRPC_ENGINE", ("lean", "grpcio")),
        max_delay_seconds=settings.number("MAX_DELAY_MS", 0.0, 0.0, 60_000.0) / 1000,
        max_wait_seconds=settings.number("MAX_WAIT_SECONDS", 1.0, 0.0, 3600.0),
        cache_bytes=settings.number("CACHE_MIB", 256, 1, 1 << 20) << 20,
        answer_tokens=settings.number("ANSWER_TOKENS", 1024, 1, 1 << 20),
        decoder=settings.one_of("DECODER", ("auto", "single")),
        intake_bytes=settings.number("INTAKE_MIB", 256, 1, 1 << 20) << 20,
        fast_path=settings.switch("FAST_PATH", 1),
        drain_seconds=settings.number("DRAIN_SECONDS", 5.0, 0.0, 3600.0),
        tls_certificate=settings.path("TLS_CERTIFICATE"),
        tls_key=settings.path("TLS_KEY"),
        tls_client_ca=settings.path("TLS_CLIENT_CA"),
        read_timeout_seconds=settings.number("READ_TIMEOUT_SECONDS", 60.0, 0.1, 86_400.0),
        keep_alive_seconds=settings.number("KEEP_ALIVE_SECONDS", 75.0, 0.1, 86_400.0),
        max_connection_age_seconds=settings.number("MAX_CONNECTION_AGE_SECONDS", 30.0, 0.1, 86_400.0),
        engine=_server("ENGINE", settings.text("ENGINE", "")),
        engine_probe=settings.text("ENGINE_PROBE", "/health"),
        explainer=_explainer(settings.text("EXPLAINER", "none")),
        shadow=_server("SHADOW", settings.text("SHADOW", "")),
        shadow_percent=settings.number("SHADOW_PERCENT", 10.0, 0.0, 100.0),
        shadow_tolerance=settings.number("SHADOW_TOLERANCE", 0.01, 0.0, 1e9),
        access_log=settings.switch("ACCESS_LOG"),
        server_timing=settings.switch("SERVER_TIMING"),
        spans=settings.switch("SPANS"),
        threads=settings.number("THREADS", 0, 0, 1024) or None,
    )


def _protocols(text: str) -> frozenset[str]:
    found = frozenset(word.strip() for word in text.split(",") if word.strip())
    if not found or not found <= {"rest", "grpc"}:
        raise InvalidSpec(f"TRIMTAB_PROTOCOLS is {text!r}; it has to be rest, grpc or rest,grpc")
    return found


def _is_address(url: str) -> bool:
    """Tell whether a URL is http, a host, and at most a port."""
    try:
        parts = urlsplit(url)
        return parts.scheme == "http" and bool(parts.hostname) and parts.port != 0 and parts.path in ("", "/")
    except ValueError:
        return False


def _server(name: str, text: str) -> str | None:
    if text and not _is_address(text):
        raise InvalidSpec(f"TRIMTAB_{name} is {text!r}; it has to be a URL such as http://127.0.0.1:8000")
    return text or None


def _explainer(text: str) -> str | None:
    if text not in ("none", "process") and not _is_address(text):
        raise InvalidSpec(
            f"TRIMTAB_EXPLAINER is {text!r}; it has to be none, process, or a URL such as http://host:8081"
        )
    return None if text == "none" else text
