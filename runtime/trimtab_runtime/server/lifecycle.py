"""Start and stop. Ready only after a warm-up; on SIGTERM not ready first, then a drain, then the end.

Endpoint removal and SIGTERM go different ways through Kubernetes, so new connections still arrive for some seconds
after SIGTERM. The listeners stay open that long, and no request that was sent is lost.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from types import FrameType

import uvicorn
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from trimtab_runtime.batching import Batcher
from trimtab_runtime.config import RuntimeConfig
from trimtab_runtime.dataplane import DataPlane
from trimtab_runtime.model.session import load_model
from trimtab_runtime.server.connections import BoundedConnections, TimedProtocol
from trimtab_runtime.server.metrics import ServerMetrics
from trimtab_runtime.server.rest import make_app

_FINISH_SECONDS = 15


async def serve(config: RuntimeConfig) -> None:
    """Serve until SIGTERM and a drain. Raises InvalidPackage where the artifact cannot be served."""
    model = load_model(config.model_dir, config.threads)
    name = config.model_name or model.package.name
    metrics = ServerMetrics(CollectorRegistry(), name, config.revision)
    batcher = Batcher(model.run, config.max_batch_size, config.max_delay_seconds, metrics.observe_batch)
    plane = DataPlane(name, config.revision, model, batcher)
    rest = _rest_server(config, plane, metrics)
    if config.grpc_port is None:
        await _run(config, plane, rest)
        return
    from trimtab_runtime.server.grpc import GrpcServer  # a tenth of a second that a REST-only server need not pay

    grpc = GrpcServer(plane, metrics, f"{config.host}:{config.grpc_port}", config.max_connection_age_seconds)
    await grpc.start()
    rest.on_drain = grpc.drain
    rest.on_end = lambda: grpc.stop(_FINISH_SECONDS)
    await _run(config, plane, rest)


async def _run(config: RuntimeConfig, plane: DataPlane, server: "DrainingServer") -> None:
    log("serving", model=plane.name, revision=plane.version, rest=config.rest_port, grpc=config.grpc_port)
    await server.serve()
    log("stopped", model=plane.name, revision=plane.version)


class DrainingServer(uvicorn.Server):
    """uvicorn that answers SIGTERM with a drain."""

    def __init__(self, config: uvicorn.Config, plane: DataPlane, drain_seconds: float) -> None:
        super().__init__(config)
        self._plane = plane
        self._drain_seconds = drain_seconds
        self._drain: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self.on_drain: Callable[[], Awaitable[None]] = _nothing
        self.on_end: Callable[[], Awaitable[None]] = _nothing

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the drain; a second signal ends at once."""
        if self._drain is not None:
            super().handle_exit(sig, frame)
            return
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        if self._drain is None:
            self._drain = asyncio.create_task(self._end_slowly())

    async def _end_slowly(self) -> None:
        self._plane.ready = False
        log("draining", seconds=self._drain_seconds)
        await self.on_drain()
        await asyncio.sleep(self._drain_seconds)
        await self.on_end()
        self.should_exit = True


async def _nothing() -> None:
    return


def _rest_server(config: RuntimeConfig, plane: DataPlane, metrics: ServerMetrics) -> DrainingServer:
    app: ASGIApp = BoundedConnections(make_app(plane, metrics), plane, config.max_connection_age_seconds)
    settings = uvicorn.Config(
        app,
        host=config.host,
        port=config.rest_port,
        http=TimedProtocol,
        loop="none",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_FINISH_SECONDS,
    )
    return DrainingServer(settings, plane, config.drain_seconds)


def log(event: str, **fields: object) -> None:
    """Write one line of JSON on standard error."""
    print(json.dumps({"logger": "trimtab.runtime", "message": event, **fields}), file=sys.stderr, flush=True)
