"""How connections end: none gets older than a limit, and none is cut while an answer may be on its way.

A Kubernetes Service moves new connections only. So a kept connection is asked to end (`Connection: close` on an answer)
once it is old, and every one is asked to while the process drains.
"""

import asyncio
import random
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from trimtab_runtime.dataplane import DataPlane

_CONNECTED = "trimtab.connected"


class TimedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol that also tells the application when its connection was made."""

    def connection_made(self, transport: Any) -> None:
        # Jitter: connections that were made together need not all come back together.
        age_so_far = random.uniform(0.0, 3.0)
        self.app_state = {**self.app_state, _CONNECTED: asyncio.get_running_loop().time() - age_so_far}
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
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, send_and_maybe_close if scope["type"] == "http" else send)

    def _should_close(self, scope: Scope) -> bool:
        connected = scope.get("state", {}).get(_CONNECTED)
        old = connected is not None and asyncio.get_running_loop().time() - connected > self._max_age
        return old or not self._plane.ready
