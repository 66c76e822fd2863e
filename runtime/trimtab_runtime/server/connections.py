"""How REST connections end: none gets much older than a limit, and none is cut while an answer may be on its way.

A Kubernetes Service moves new connections only. So a kept connection is asked to end (`Connection: close` on an answer)
once it is old, and every one is asked to while the process drains.
"""

import asyncio
import random
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from trimtab_runtime.dataplane import DataPlane

_CONNECTION: Final = "trimtab.connection"
_JITTER: Final = 0.1
_CLOSE: Final = (b"connection", b"close")


class Connection:
    """When a connection was made, and by how much its own limit differs from the common one."""

    __slots__ = ("_made", "_stretch")

    def __init__(self, made: float, stretch: float) -> None:
        self._made = made
        self._stretch = stretch

    def is_old(self, now: float, max_age_seconds: float) -> bool:
        """Tell whether the connection has outlived its limit."""
        return now - self._made > max_age_seconds * self._stretch


class TimedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol that also tells the application about its connection."""

    def connection_made(self, transport: Any) -> None:
        # Jitter: connections that were made together need not all come back together.
        made = Connection(self.loop.time(), random.uniform(1 - _JITTER, 1 + _JITTER))
        self.app_state = {**self.app_state, _CONNECTION: made}
        super().connection_made(transport)


class BoundedConnections:
    """ASGI middleware that asks old connections, and all of them during a drain, to end."""

    def __init__(self, app: ASGIApp, plane: DataPlane, max_age_seconds: float) -> None:
        self._app = app
        self._plane = plane
        self._max_age = max_age_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_maybe_close(message: Message) -> None:
            if message["type"] == "http.response.start" and self._should_close(scope):
                message["headers"] = [*message["headers"], _CLOSE]
            await send(message)

        await self._app(scope, receive, send_and_maybe_close)

    def _should_close(self, scope: Scope) -> bool:
        connection: Connection = scope["state"][_CONNECTION]
        return not self._plane.ready or connection.is_old(asyncio.get_running_loop().time(), self._max_age)
