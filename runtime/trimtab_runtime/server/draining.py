"""The server's own life: open the ports, on SIGTERM not ready first, then a drain, then the end.

Endpoint removal and SIGTERM go different ways through Kubernetes, so new connections still arrive for some seconds
after SIGTERM. The listeners stay open that long, and no request that was sent is lost.
"""

import asyncio
import os
import signal
import socket
from types import FrameType
from typing import Any, Final, Protocol

import uvicorn
from starlette.types import ASGIApp

from trimtab_api.errors import InvalidSpec
from trimtab_runtime.config import RuntimeConfig
from trimtab_runtime.logs import say
from trimtab_runtime.server.connections import Served, TimedProtocol
from trimtab_runtime.server.tls import Certificates

FINISH_SECONDS: Final = 15  # for what is in flight at the end of the drain


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
        plane: Served,
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
            ends.append(self._grpc.stop(FINISH_SECONDS))
        await asyncio.gather(*ends)


def certificates_of(config: RuntimeConfig) -> Certificates | None:
    """Return what both ports speak TLS with, where they do. Raises InvalidSpec for half of it."""
    if config.tls_certificate is None and config.tls_key is None and config.tls_client_ca is None:
        return None
    if config.tls_certificate is None or config.tls_key is None:
        raise InvalidSpec("TRIMTAB_TLS_CERTIFICATE and TRIMTAB_TLS_KEY have to be set together")
    return Certificates(config.tls_certificate, config.tls_key, config.tls_client_ca)


def rest_config(
    config: RuntimeConfig, app: ASGIApp, protocol: Any, certificates: Certificates | None
) -> uvicorn.Config:
    """Return how uvicorn runs the application; `protocol` makes what speaks HTTP on a connection."""
    made = uvicorn.Config(
        app,
        host=config.host,
        port=config.rest_port,
        http=protocol,
        loop="none",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=config.keep_alive_seconds,  # type: ignore[arg-type]  # it is only compared
        timeout_graceful_shutdown=FINISH_SECONDS,
    )
    made.load()
    made.ssl = certificates.rest if certificates else None
    return made
