"""The lean gRPC server: connections on the event loop, their age, their drain.

Why not the common library: a call of it takes 0.3 ms of processor time, whatever the handler does.
"""

import asyncio
import random
from collections.abc import Mapping
from typing import Final, cast

from trimtab_runtime.intake import Intake
from trimtab_runtime.server.endpoints import Endpoints
from trimtab_runtime.server.grpc.calls import Calls, Method
from trimtab_runtime.server.grpc.services import Health, methods
from trimtab_runtime.server.tls import Certificates

_JITTER: Final = 0.1  # of the age, so that connections made together need not all come back together
_GRACE_SECONDS: Final = 10.0  # for what is in flight on a connection that has become old
_BACKLOG: Final = 1024
_LOOK_SECONDS: Final = 0.2
_LINGER_SECONDS: Final = (
    1.0  # that the caller has to close: who closes first cuts off what the other still sends, and reads
)


class LeanGrpcServer:
    """A server over models. `drain` says NOT_SERVING; `stop` lets calls end and connections go."""

    def __init__(
        self,
        endpoints: Endpoints,
        host: str,
        port: int,
        shares_port: bool,
        max_age_seconds: float,
        certificates: Certificates | None = None,
    ) -> None:
        self._tls = certificates.grpc if certificates else None
        self._health = Health()
        self._intake = endpoints.intake
        self._methods = methods(endpoints, self._health)
        self._address = host, port
        self._shares_port = shares_port
        self._max_age = max_age_seconds
        self._connections: set[GrpcProtocol] = set()
        self._server: asyncio.Server | None = None
        self.port = port

    async def start(self) -> None:
        """Open the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._connection, *self._address, ssl=self._tls, backlog=_BACKLOG, reuse_port=self._shares_port
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def drain(self) -> None:
        """Say NOT_SERVING to who asks for health, and go on answering."""
        self._health.stop_serving()

    async def stop(self, grace_seconds: float) -> None:
        """Take no new connections, ask those that are there to end, and wait for them as long as that."""
        if self._server is None:
            return
        self._server.close()
        self._health.end_watches()
        deadline = asyncio.get_running_loop().time() + grace_seconds
        while self._connections and (left := deadline - asyncio.get_running_loop().time()) > 0:
            for connection in list(self._connections):  # each time: some are accepted late
                connection.go_away()
            await asyncio.wait([item.gone for item in self._connections], timeout=min(left, _LOOK_SECONDS))
        for connection in list(self._connections):
            connection.abort()

    def _connection(self) -> "GrpcProtocol":
        age = self._max_age * random.uniform(1 - _JITTER, 1 + _JITTER)
        return GrpcProtocol(self._methods, self._connections, age, self._intake)


class GrpcProtocol(asyncio.Protocol):
    """A connection."""

    def __init__(
        self,
        methods: Mapping[bytes, Method],
        connections: "set[GrpcProtocol]",
        max_age_seconds: float,
        intake: Intake,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connections = connections
        self._max_age = max_age_seconds
        self._calls = Calls(methods, self._flush_soon, intake)
        self._connection = self._calls.connection
        self._is_due = self._is_receiving = self._is_ending = False
        self._timers: list[asyncio.TimerHandle] = []
        self.gone: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        self._timers = [
            self._loop.call_later(self._max_age, self.go_away),
            self._loop.call_later(self._max_age + _GRACE_SECONDS, self.abort),
        ]
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._is_receiving = True
        self._connection.receive(data)  # never raises
        self._is_receiving = False
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        for timer in self._timers:
            timer.cancel()
        self._connection.lost()
        if not self.gone.done():
            self.gone.set_result(None)

    def pause_writing(self) -> None:
        self._transport.pause_reading()  # who does not read answers may not ask for more

    def resume_writing(self) -> None:
        self._transport.resume_reading()

    def go_away(self) -> None:
        """Ask the caller to come again elsewhere; what is in flight is answered."""
        self._connection.go_away()
        self._flush()

    def abort(self) -> None:
        """End at once."""
        self._transport.abort()

    def _flush_soon(self) -> None:
        """Send once for all that is answered in this turn of the loop."""
        if not self._is_due and not self._is_receiving:
            self._is_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_due = False
        if self._transport.is_closing():
            return
        if out := self._connection.take():
            self._transport.write(out)
        if self._connection.is_broken:
            self._transport.close()
        elif self._connection.is_over and not self._is_ending:
            self._is_ending = True
            self._timers.append(self._loop.call_later(_LINGER_SECONDS, self._transport.close))
