"""Start and stop. Ready only after a warm-up; on SIGTERM not ready first, then a drain, then the end.

Endpoint removal and SIGTERM go different ways through Kubernetes, so new connections still arrive for some seconds
after SIGTERM. The listeners stay open that long, and no request that was sent is lost.
"""

import asyncio
import math
import signal
import socket
from types import FrameType
from typing import TYPE_CHECKING, Final

import uvicorn
from prometheus_client import CollectorRegistry

from trimtab_runtime.batching import Batcher, Limits
from trimtab_runtime.config import RuntimeConfig
from trimtab_runtime.dataplane import DataPlane
from trimtab_runtime.model.cpus import available_cpus
from trimtab_runtime.model.session import load_model
from trimtab_runtime.server.connections import BoundedConnections, TimedProtocol
from trimtab_runtime.server.logs import say
from trimtab_runtime.server.metrics import ServerMetrics
from trimtab_runtime.server.rest import make_app

if TYPE_CHECKING:
    from trimtab_runtime.server.grpc import GrpcServer

_FINISH_SECONDS: Final = 15  # for what is in flight at the end of the drain
_KEEP_ALIVE_SECONDS: Final = 75  # longer than clients and proxies keep an idle connection: they close, not we


async def serve(config: RuntimeConfig) -> None:
    """Serve until SIGTERM and a drain. Raises InvalidPackage where the artifact cannot be served."""
    model = load_model(config.model_dir, config.threads or available_cpus())
    name = config.model_name or model.package.name
    metrics = ServerMetrics(CollectorRegistry(), name, config.revision)
    batcher = Batcher(model.run, Limits(config.max_batch_size, config.max_delay_seconds), metrics.observe_batch)
    plane = DataPlane(name, config.revision, model, batcher)
    grpc = _grpc_server(config, plane, metrics)
    await DrainingServer(_rest_config(config, plane, metrics), plane, grpc, config.drain_seconds).serve()
    say("stopped", model=name, revision=config.revision)


class DrainingServer(uvicorn.Server):
    """uvicorn that answers SIGTERM with a drain, and ends the gRPC server along with itself."""

    def __init__(
        self, config: uvicorn.Config, plane: DataPlane, grpc: "GrpcServer | None", drain_seconds: float
    ) -> None:
        super().__init__(config)
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
        say("serving", model=self._plane.name, revision=self._plane.version, rest=rest, grpc=grpc)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, let both protocols finish what is in flight, close idle connections."""
        ends = [super().shutdown(sockets)]
        if self._grpc is not None:
            ends.append(self._grpc.stop(_FINISH_SECONDS))
        await asyncio.gather(*ends)


def _grpc_server(config: RuntimeConfig, plane: DataPlane, metrics: ServerMetrics) -> "GrpcServer | None":
    if "grpc" not in config.protocols:
        return None
    from trimtab_runtime.server.grpc import GrpcServer  # a tenth of a second that a REST-only server need not pay

    # Each connection has to have had its GOAWAY when the drain ends: to stop the server cancels calls that cross the
    # GOAWAY of the stop, while the one for old age lets them through. There is no third way to send one.
    age = min(config.max_connection_age_seconds, config.drain_seconds / 2 or math.inf)
    return GrpcServer(plane, metrics, config.host, config.grpc_port, age)


def _rest_config(config: RuntimeConfig, plane: DataPlane, metrics: ServerMetrics) -> uvicorn.Config:
    app = make_app(plane, metrics, inference="rest" in config.protocols)
    return uvicorn.Config(
        BoundedConnections(app, plane, config.max_connection_age_seconds),
        host=config.host,
        port=config.rest_port,
        http=TimedProtocol,
        loop="none",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_FINISH_SECONDS,
    )
