"""Start and stop. Ready only after a warm-up; on SIGTERM not ready first, then a drain, then the end.

Endpoint removal and SIGTERM go different ways through Kubernetes, so new connections still arrive for some seconds
after SIGTERM. The listeners stay open that long, and no request that was sent is lost.
"""

import asyncio
import gc
import math
import os
import signal
import socket
import threading
from functools import partial
from types import FrameType
from typing import Any, Final, Protocol

import uvicorn

from trimtab_api.errors import InvalidSpec
from trimtab_runtime.config import RuntimeConfig
from trimtab_runtime.dataplane import DataPlane
from trimtab_runtime.engine.batcher import Batcher, Limits
from trimtab_runtime.engine.pieces import piece_rows
from trimtab_runtime.engine.trial import learn
from trimtab_runtime.intake import Intake
from trimtab_runtime.logs import say
from trimtab_runtime.model.cpus import available_cpus
from trimtab_runtime.model.session import Model, load_model
from trimtab_runtime.server.connections import BoundedConnections, TimedProtocol
from trimtab_runtime.server.explaining import Explaining
from trimtab_runtime.server.fast import FastProtocol, Inference
from trimtab_runtime.server.metrics import ServerMetrics, all_started
from trimtab_runtime.server.place import Place, bind
from trimtab_runtime.server.rest import make_app
from trimtab_runtime.server.tls import Certificates
from trimtab_runtime.server.tracing import Tracing, open_tracing

_FINISH_SECONDS: Final = 15  # for what is in flight at the end of the drain
_LOOK_SECONDS: Final = 0.01
_LAST_SPANS_SECONDS: Final = 3.0


async def serve(config: RuntimeConfig, place: Place) -> None:
    """Serve until SIGTERM and a drain. Raises InvalidPackage where the artifact cannot be served."""
    model = load_model(config.model_dir, config.threads or max(1, available_cpus() // config.workers))
    name = config.model_name or model.package.name
    tracing = open_tracing(config, name)
    metrics = ServerMetrics(name, config.revision, place.tallies, place.process, tracing)
    batcher = _batcher(config, model, metrics)
    plane = DataPlane(name, config.revision, model, batcher, Intake(config.intake_bytes, metrics.intake_cell))
    certificates = _certificates(config)
    grpc = _grpc_server(config, plane, metrics, certificates)
    _collect_seldom()
    explaining = Explaining(config.explainer, plane, config.model_dir)
    rest = _rest_config(config, plane, metrics, certificates, explaining)
    metrics.started()
    while not all_started(place.tallies):
        await asyncio.sleep(_LOOK_SECONDS)
    sockets = [bind(config.host, config.rest_port, shared=True)] if place.shares_ports else None
    await DrainingServer(rest, plane, grpc, config.drain_seconds, certificates).serve(sockets)
    explaining.close()
    if tracing is not None:
        await _close(tracing)
    say("stopped", model=name, revision=config.revision)


async def _close(tracing: Tracing) -> None:
    """Send what is left of spans, for a short time: a collector that is gone does not keep a pod from its end."""
    closing = threading.Thread(target=tracing.close, daemon=True)
    closing.start()
    for _ in range(int(_LAST_SPANS_SECONDS / _LOOK_SECONDS)):
        if not closing.is_alive():
            return
        await asyncio.sleep(_LOOK_SECONDS)


def _collect_seldom() -> None:
    """Spare the garbage collector what is loaded and stays, and let it look for cycles seldom: requests make none."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


def _batcher(config: RuntimeConfig, model: Model, metrics: ServerMetrics) -> Batcher:
    """Return what feeds the model in the way that it runs best, as a trial tells."""
    learned = learn(model.run, model.make_rows, config.max_batch_size, config.batch_tolerance)
    metrics.learned(learned)
    one_shape = all(-1 not in item.shape[1:] for item in model.package.inputs)
    # Rows of any length may take any time: those of the trial say nothing of the longest.
    in_loop = learned.in_loop and one_shape if config.executor == "auto" else config.executor == "loop"
    say(
        "learned",
        batchRows=learned.batch_rows,
        runSeconds=round(learned.costs.of(learned.batch_rows), 6),
        inLoop=in_loop,
        batchDifference=learned.difference if math.isfinite(learned.difference) else None,
    )
    limits = Limits(learned.batch_rows, config.max_delay_seconds, config.max_wait_seconds)
    mixes = learned.is_safe and config.max_batch_size > 1
    pieces = piece_rows(learned.costs, learned.batch_rows, config.max_batch_size, in_loop) if mixes else None
    return Batcher(model.run, limits, learned.costs, metrics.observe_run, in_loop, one_shape, pieces)


class GrpcServer(Protocol):
    """What both gRPC servers do."""

    port: int

    async def start(self) -> None:
        """Open the port."""

    async def drain(self) -> None:
        """Say that nothing is served any more, and go on serving."""

    async def stop(self, grace_seconds: float) -> None:
        """End, once what is in flight is answered."""


class DrainingServer(uvicorn.Server):
    """uvicorn that answers SIGTERM with a drain, and ends the gRPC server along with itself."""

    def __init__(
        self,
        config: uvicorn.Config,
        plane: DataPlane,
        grpc: GrpcServer | None,
        drain_seconds: float,
        certificates: Certificates | None,
    ) -> None:
        super().__init__(config)
        self._certificates = certificates
        self._plane = plane
        self._grpc = grpc
        self._drain_seconds = drain_seconds
        self._drain: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the drain on SIGTERM. A second signal, or SIGINT, ends without one: somebody is waiting."""
        self._loop.call_soon_threadsafe(self._end if sig == signal.SIGINT or not self._plane.ready else self._begin)

    def _begin(self) -> None:
        self._plane.ready = False
        self._drain = asyncio.create_task(self._end_slowly())

    async def _end_slowly(self) -> None:
        say("draining", seconds=self._drain_seconds)
        if self._grpc is not None:
            await self._grpc.drain()
        await asyncio.sleep(self._drain_seconds)
        self._end()

    def _end(self) -> None:
        self._plane.ready = False
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open gRPC, then REST: once readiness can be asked for, both answer."""
        if self._grpc is not None:
            await self._grpc.start()
        await super().startup(sockets)
        rest = self.servers[0].sockets[0].getsockname()[1]
        grpc = self._grpc.port if self._grpc else None
        say("serving", model=self._plane.name, revision=self._plane.version, rest=rest, grpc=grpc, pid=os.getpid())

    async def on_tick(self, counter: int) -> bool:
        """Look through the connections and the certificate every second; uvicorn calls this ten times as often."""
        if counter % 10 == 0:
            if self._certificates is not None:
                self._certificates.renew()
            now = self._loop.time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, TimedProtocol):
                    connection.sweep(now)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, let both protocols finish what is in flight, close idle connections."""
        ends = [super().shutdown(sockets)]
        if self._grpc is not None:
            ends.append(self._grpc.stop(_FINISH_SECONDS))
        await asyncio.gather(*ends)


def _certificates(config: RuntimeConfig) -> Certificates | None:
    if config.tls_certificate is None and config.tls_key is None and config.tls_client_ca is None:
        return None
    if config.tls_certificate is None or config.tls_key is None:
        raise InvalidSpec("TRIMTAB_TLS_CERTIFICATE and TRIMTAB_TLS_KEY have to be set together")
    return Certificates(config.tls_certificate, config.tls_key, config.tls_client_ca)


def _grpc_server(
    config: RuntimeConfig, plane: DataPlane, metrics: ServerMetrics, certificates: Certificates | None
) -> GrpcServer | None:
    if "grpc" not in config.protocols:
        return None
    place = (plane, metrics, config.host, config.grpc_port, config.workers > 1)
    if config.grpc_engine == "lean":
        from trimtab_runtime.server.grpc.lean import LeanGrpcServer  # late, as a server of REST alone can do without

        return LeanGrpcServer(*place, config.max_connection_age_seconds, certificates)
    from trimtab_runtime.server.grpc.grpcio import GrpcioServer

    # Each connection has to have had its GOAWAY when the drain ends: to stop the server cancels calls that cross the
    # GOAWAY of the stop, while the one for old age lets them through. There is no third way to send one.
    age = min(config.max_connection_age_seconds, config.drain_seconds / 2 or math.inf)
    return GrpcioServer(*place, age, certificates)


def _rest_config(
    config: RuntimeConfig,
    plane: DataPlane,
    metrics: ServerMetrics,
    certificates: Certificates | None,
    explaining: Explaining,
) -> uvicorn.Config:
    app = make_app(plane, metrics, "rest" in config.protocols, explaining)
    made = uvicorn.Config(
        BoundedConnections(app, plane, config.max_connection_age_seconds),
        host=config.host,
        port=config.rest_port,
        http=_protocol(config, plane, metrics),
        loop="none",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=config.keep_alive_seconds,  # type: ignore[arg-type]  # it is only compared
        timeout_graceful_shutdown=_FINISH_SECONDS,
    )
    made.load()
    made.ssl = certificates.rest if certificates else None
    return made


def _protocol(config: RuntimeConfig, plane: DataPlane, metrics: ServerMetrics) -> Any:
    """Return what makes the protocol of a connection."""
    if not config.fast_path or "rest" not in config.protocols:
        return partial(TimedProtocol, reading_seconds=config.read_timeout_seconds)
    inference = Inference(plane, metrics, config.max_connection_age_seconds)
    return partial(FastProtocol, inference=inference, reading_seconds=config.read_timeout_seconds)
