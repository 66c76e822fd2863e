"""The server's configuration: from the environment, as the operator sets it, or from flags, as a person does."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from trimtab_api.errors import InvalidSpec

_PREFIX: Final = "TRIMTAB_"
_HELP: Final = {
    "MODEL_DIR": "folder with model.yaml and model.onnx or model.tflite (default /model)",
    "MODEL_NAME": "name to serve the model under (default: the package's)",
    "REVISION": "version that answers and metrics carry (default 1)",
    "HOST": "address to listen on (default 0.0.0.0)",
    "REST_PORT": "port of REST, health and metrics (default 8080; 0: a free one)",
    "GRPC_PORT": "port of gRPC (default 9000; 0: a free one)",
    "WORKERS": "processes that share the ports, each with the model (default 1)",
    "PROTOCOLS": "protocols of inference: rest, grpc or both (default rest,grpc)",
    "MAX_BATCH_SIZE": "most rows that run together (default 32); fewer where more do not pay",
    "BATCH_TOLERANCE": "how far a row may differ in company, as a part of the largest output (default 0.0001)",
    "EXECUTOR": "where runs happen: loop (short ones), thread, or auto, as a trial tells (default auto)",
    "GRPC_ENGINE": "lean: our own HTTP/2; grpcio: the common library (default lean)",
    "MAX_DELAY_MS": "how long a request may wait for others (default 0: not at all)",
    "MAX_WAIT_SECONDS": "expected wait above which a request is refused (default 1)",
    "FAST_PATH": "1: inference calls go past the web framework; 0: through it (default 1)",
    "DRAIN_SECONDS": "how long to go on answering after SIGTERM (default 5)",
    "TLS_CERTIFICATE": "file of the certificate, with which both ports speak TLS (default none)",
    "TLS_KEY": "file of its key",
    "TLS_CLIENT_CA": "file of the authorities that have to have signed callers' certificates (default: none are asked)",
    "READ_TIMEOUT_SECONDS": "in which a request has to have arrived (default 60)",
    "KEEP_ALIVE_SECONDS": "how long a connection may be idle (default 75: callers and proxies close theirs before)",
    "MAX_CONNECTION_AGE_SECONDS": "age at which a connection is asked to end (default 30)",
    "ACCESS_LOG": "1: a line of the log for each inference call (default 0)",
    "SERVER_TIMING": "1: answers over REST have a header Server-Timing (default 0)",
    "SPANS": "1: spans of OpenTelemetry, sent and sampled as the variables OTEL_* say (default 0)",
    "THREADS": "threads of one run (default: the CPUs that the container may use, by the number of processes)",
}
_Number = TypeVar("_Number", int, float)


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
    fast_path: bool
    drain_seconds: float
    tls_certificate: Path | None
    tls_key: Path | None
    tls_client_ca: Path | None
    read_timeout_seconds: float
    keep_alive_seconds: float
    max_connection_age_seconds: float
    access_log: bool
    server_timing: bool
    spans: bool
    threads: int | None


def read_config(arguments: Sequence[str], environ: Mapping[str, str]) -> RuntimeConfig:
    """Read flags, then the environment; all have defaults. Raises InvalidSpec naming the variable that is wrong."""
    values = {**environ, **_flags(arguments)} if arguments else environ
    return RuntimeConfig(
        model_dir=Path(_text(values, "MODEL_DIR", "/model")),
        model_name=_text(values, "MODEL_NAME", "") or None,
        revision=_text(values, "REVISION", "1"),
        host=_text(values, "HOST", "0.0.0.0"),
        rest_port=_number(values, "REST_PORT", 8080, 0, 65535),
        grpc_port=_number(values, "GRPC_PORT", 9000, 0, 65535),
        workers=_number(values, "WORKERS", 1, 1, 256),
        protocols=_protocols(_text(values, "PROTOCOLS", "rest,grpc")),
        max_batch_size=_number(values, "MAX_BATCH_SIZE", 32, 1, 1 << 20),
        batch_tolerance=_number(values, "BATCH_TOLERANCE", 1e-4, 0.0, 1e9),
        executor=_one_of(values, "EXECUTOR", ("auto", "loop", "thread")),
        grpc_engine=_one_of(values, "GRPC_ENGINE", ("lean", "grpcio")),
        max_delay_seconds=_number(values, "MAX_DELAY_MS", 0.0, 0.0, 60_000.0) / 1000,
        max_wait_seconds=_number(values, "MAX_WAIT_SECONDS", 1.0, 0.0, 3600.0),
        fast_path=_switch(values, "FAST_PATH", 1),
        drain_seconds=_number(values, "DRAIN_SECONDS", 5.0, 0.0, 3600.0),
        tls_certificate=_path(values, "TLS_CERTIFICATE"),
        tls_key=_path(values, "TLS_KEY"),
        tls_client_ca=_path(values, "TLS_CLIENT_CA"),
        read_timeout_seconds=_number(values, "READ_TIMEOUT_SECONDS", 60.0, 0.1, 86_400.0),
        keep_alive_seconds=_number(values, "KEEP_ALIVE_SECONDS", 75.0, 0.1, 86_400.0),
        max_connection_age_seconds=_number(values, "MAX_CONNECTION_AGE_SECONDS", 30.0, 0.1, 86_400.0),
        access_log=_switch(values, "ACCESS_LOG"),
        server_timing=_switch(values, "SERVER_TIMING"),
        spans=_switch(values, "SPANS"),
        threads=_number(values, "THREADS", 0, 0, 1024) or None,
    )


def _flags(arguments: Sequence[str]) -> Mapping[str, str]:
    parser = argparse.ArgumentParser("trimtab-runtime", description="Serve one model over the Open Inference Protocol.")
    for name, meaning in _HELP.items():
        flag = "--" + name.lower().replace("_", "-")
        parser.add_argument(flag, dest=name, metavar="VALUE", help=f"{meaning}; also {_PREFIX}{name}")
    given = vars(parser.parse_args(arguments))
    return {_PREFIX + name: value for name, value in given.items() if value is not None}


def _text(values: Mapping[str, str], name: str, default: str) -> str:
    return values.get(_PREFIX + name) or default


def _path(values: Mapping[str, str], name: str) -> Path | None:
    text = _text(values, name, "")
    return Path(text) if text else None


def _number(values: Mapping[str, str], name: str, default: _Number, low: _Number, high: _Number) -> _Number:
    text = _text(values, name, str(default))
    try:
        number = type(default)(text)
    except ValueError:
        number = None
    if number is None or not low <= number <= high:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise InvalidSpec(f"{_PREFIX}{name} is {text!r}; it has to be {kind} from {low} to {high}")
    return number


def _switch(values: Mapping[str, str], name: str, default: int = 0) -> bool:
    return bool(_number(values, name, default, 0, 1))


def _one_of(values: Mapping[str, str], name: str, known: Sequence[str]) -> str:
    """Read a word; the first of those that are known is the default."""
    text = _text(values, name, known[0])
    if text not in known:
        raise InvalidSpec(f"{_PREFIX}{name} is {text!r}; it has to be one of {', '.join(known)}")
    return text


def _protocols(text: str) -> frozenset[str]:
    found = frozenset(word.strip() for word in text.split(",") if word.strip())
    if not found or not found <= {"rest", "grpc"}:
        raise InvalidSpec(f"{_PREFIX}PROTOCOLS is {text!r}; it has to be rest, grpc or rest,grpc")
    return found
