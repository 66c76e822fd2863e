"""The servers that ours is measured beside, each in an environment of its own, with the settings that suit it best."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.error import HTTPError

from environments import surroundings

from trimtab_testing import environments

FOLDER: Final = Path(__file__).parent / "servers"
_START_SECONDS: Final = 120
_STOP_SECONDS: Final = 10
_TICKS: Final = os.sysconf("SC_CLK_TCK")
INFER: Final = "/v2/models/model/infer"


@dataclass(frozen=True, slots=True)
class Kind:
    """A server by its name in tables. {python}, {bin}, {folder} and {port}, {port1}, {port2} are filled in."""

    shown: str
    environment: str  # of requirements in servers/; none for ours
    command: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    path: str = INFER
    body: str = "json"  # of the forms in serving.py
    takes_binary: bool = False
    grpc_port: int | None = None  # from its first port


_MLSERVER: Final = {
    "MLSERVER_HTTP_PORT": "{port}",
    "MLSERVER_GRPC_PORT": "{port1}",
    "MLSERVER_METRICS_PORT": "{port2}",
    "MLSERVER_HOST": "127.0.0.1",
    "MLSERVER_PARALLEL_WORKERS": "0",
    "MLSERVER_DEBUG": "false",
    "MLSERVER_MODEL_NAME": "model",
    "MLSERVER_MODEL_IMPLEMENTATION": "mlserver_runtime.Onnx",
}
_BATCHES: Final = {"MLSERVER_MODEL_MAX_BATCH_SIZE": "64", "MLSERVER_MODEL_MAX_BATCH_TIME": "0.002"}

OURS: Final = Kind(
    "Trimtab",
    "",
    ("{python}", "-m", "trimtab_runtime"),
    {
        "TRIMTAB_HOST": "127.0.0.1",
        "TRIMTAB_REST_PORT": "{port}",
        "TRIMTAB_GRPC_PORT": "{port1}",
        "TRIMTAB_MODEL_DIR": "{folder}",
        "TRIMTAB_THREADS": "1",
        "TRIMTAB_MAX_BATCH_SIZE": "64",
        "TRIMTAB_MAX_CONNECTION_AGE_SECONDS": "3600",  # h2load does not come again
    },
    takes_binary=True,
    grpc_port=1,
)
_BY_GRPCIO: Final = {"TRIMTAB_GRPC_ENGINE": "grpcio", "TRIMTAB_DRAIN_SECONDS": "3600"}  # which bounds their age too
OURS_BY_GRPCIO: Final = replace(OURS, shown="Trimtab, grpcio", variables={**OURS.variables, **_BY_GRPCIO})
PEERS: Final = (
    Kind("MLServer", "mlserver", ("{bin}/mlserver", "start", str(FOLDER)), _MLSERVER, grpc_port=1),
    Kind("MLServer, batches", "mlserver", ("{bin}/mlserver", "start", str(FOLDER)), _MLSERVER | _BATCHES),
    Kind(
        "KServe",
        "kserve",
        ("{python}", str(FOLDER / "kserve_server.py"), "{port}", "{port1}"),
        takes_binary=True,
        grpc_port=1,
    ),
    Kind("LitServe", "litserve", ("{python}", str(FOLDER / "litserve_server.py"), "{port}")),
    Kind("LitServe, batches", "litserve", ("{python}", str(FOLDER / "litserve_server.py"), "{port}", "64", "0.002")),
    *(
        Kind(
            shown,
            "bentoml",
            ("{bin}/bentoml", "serve", f"bentoml_service:{service}", "--port", "{port}", "--host", "127.0.0.1"),
            path="/predict",
            body="named",
        )
        for shown, service in (("BentoML", "Single"), ("BentoML, batches", "Batched"))
    ),
    Kind("Ray Serve", "ray", ("{python}", str(FOLDER / "ray_server.py"), "{port}"), {"RAY_USAGE_STATS_ENABLED": "0"}),
)


class Server:
    """A running server, on all cores or on these. Its processor time is that of all processes of its session."""

    def __init__(self, kind: Kind, folder: Path, log: Path, cores: set[int] | None = None) -> None:
        self.kind = kind
        self.port = _free_ports(3)
        python = Path(sys.executable) if not kind.environment else _python(kind.environment)
        words = {"python": str(python), "bin": str(python.parent), "folder": str(folder)}
        words |= {f"port{at or ''}": str(self.port + at) for at in range(3)}
        variables = {key: value.format(**words) for key, value in kind.variables.items()}
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [word.format(**words) for word in kind.command],
                cwd=FOLDER,
                env={
                    **surroundings(kind.environment),
                    "OMP_NUM_THREADS": "1",
                    "MODEL": str(folder / "model.onnx"),
                    **variables,
                },
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if cores is not None:
            os.sched_setaffinity(self._process.pid, cores)
        self._log = log
        self._known: set[str] = set()  # pids that were its at some time, whose parent may have ended

    def wait_for(self, body: bytes, is_tls: bool = False) -> bytes:
        """Ask until there is an answer, and return it. Raises RuntimeError with what the server said."""
        deadline, problem = time.monotonic() + _START_SECONDS, "no answer"
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                return self.ask(body, is_tls=is_tls)
            except OSError as error:
                problem = f"{error} {error.read().decode() if isinstance(error, HTTPError) else ''}"
                time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"{self.kind.shown} does not serve: {problem}\n{self._log.read_text()[-3000:]}")

    def ask(self, body: bytes, headers: Mapping[str, str] | None = None, is_tls: bool = False) -> bytes:
        """Return what the server answers; its certificate is ours, and not looked at."""
        url = f"http{'s' * is_tls}://127.0.0.1:{self.port}{self.kind.path}"
        asked = urllib.request.Request(url, body, {"content-type": "application/json", **(headers or {})})
        context = ssl._create_unverified_context() if is_tls else None
        with urllib.request.urlopen(asked, timeout=10, context=context) as answer:
            content: bytes = answer.read()
        return content

    def seconds(self) -> float:
        """Return the processor time that its processes have taken."""
        return sum(_ticks(fields) for fields in self._processes()) / _TICKS

    def memory(self) -> float:
        """Return the MiB that its processes hold."""
        return sum(int(fields[21]) * 4096 for fields in self._processes()) / 2**20

    def threads(self) -> int:
        """Return the threads of its processes."""
        return sum(int(fields[17]) for fields in self._processes())

    def files(self) -> int:
        """Return how many files and sockets its processes have open."""
        return sum(len(os.listdir(f"/proc/{fields[-1]}/fd")) for fields in self._processes())

    def terminate(self) -> None:
        """Ask it to end, as Kubernetes does: its first process gets the signal."""
        self._process.send_signal(signal.SIGTERM)

    def has_ended(self) -> bool:
        """Tell whether all its processes are gone."""
        self._process.poll()
        return not self._processes()

    def stop(self) -> None:
        """End all its processes: first as Kubernetes does, then for good."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while self._processes() and time.monotonic() < deadline:
            self._process.poll()
            time.sleep(0.1)
        for fields in self._processes():
            with suppress(ProcessLookupError):
                os.kill(int(fields[-1]), signal.SIGKILL)
        self._process.wait()

    def _processes(self) -> list[list[str]]:
        """Return the fields of each living process of the server from its state on, and its pid as the last.

        They are those of its session, and all that descend from it: some begin sessions of their own.
        """
        found: dict[str, list[str]] = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                found[entry.name] = [*(entry / "stat").read_text().rpartition(") ")[2].split(), entry.name]
        ours = {pid for pid, fields in found.items() if int(fields[3]) == self._process.pid or pid in self._known}
        while more := {pid for pid, fields in found.items() if fields[1] in ours} - ours:
            ours |= more
        self._known |= ours
        return [found[pid] for pid in ours if found[pid][0] != "Z"]


def _ticks(fields: list[str]) -> int:
    return sum(map(int, fields[11:15]))  # its own and of children that ended


def _python(environment: str) -> Path:
    return environments.interpreter(environment, FOLDER / f"{environment}.txt")


def _free_ports(count: int) -> int:
    """Return the first of some ports in a row that are free now."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
        try:
            for at in range(1, count):
                with socket.socket() as other:
                    other.bind(("127.0.0.1", port + at))
        except OSError:
            continue
        return port
