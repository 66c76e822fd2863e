"""How REST connections end: none gets much older than a limit, and none is cut while an answer may be on its way.

A Kubernetes Service moves new connections only. So a kept connection is asked to end (`Connection: close` on an answer)
once it is old, and every one is asked to while the process drains.
"""

import asyncio
import random
from typing import Any, Final, Protocol

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

_CONNECTION: Final = "trimtab.connection"
_JITTER: Final = 0.1
_MAX_HEAD: Final = 64 << 10  # bytes of a message beside its body, not counting those that came with its beginning
_FRAMING: Final = 9  # bytes that a byte of a body may take, as a chunk of its own
_CLOSE: Final = (b"connection", b"close")


class Served(Protocol):
    """What a server serves. `ready` turns false when the process begins to drain, and stays so."""

    ready: bool

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...


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
    """uvicorn's HTTP/1.1 protocol, which also bounds how long a connection is idle, old, or in the midst of a request.

    uvicorn starts and cancels a timer for each request. Here `sweep` is called now and then.
    """

    def __init__(self, *arguments: Any, reading_seconds: float, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._reading_seconds = reading_seconds
        self._begun = 0  # messages since the last look
        self._message_size = self._body_size = 0
        self._stalled_since: float | None = None

    def connection_made(self, transport: Any) -> None:
        now = self.loop.time()
        # Jitter: connections that were made together need not all come back together.
        self.connection = Connection(now, random.uniform(1 - _JITTER, 1 + _JITTER))
        self.app_state = {**self.app_state, _CONNECTION: self.connection}
        self._idle_since: float | None = now
        self._reading_since: float | None = None
        super().connection_made(transport)

    def should_close(self, ready: bool, max_age_seconds: float) -> bool:
        """Tell whether the connection has to end with the next answer."""
        return not ready or self.connection.is_old(self.loop.time(), max_age_seconds)

    def on_message_begin(self) -> None:
        self._begin_reading()
        super().on_message_begin()

    def data_received(self, data: bytes) -> None:
        is_first = self._reading_since is None
        self._begun = 0
        super().data_received(data)
        if self._reading_since is None or self._begun > is_first:
            return  # of what came together with the end of another message it is not known how much belongs to this one
        # Headers, trailers, and lengths of chunks: a message is mostly body, or it is not for us.
        self._message_size += len(data)
        if self._message_size - _FRAMING * self._body_size > _MAX_HEAD and not self.transport.is_closing():
            self.send_400_response("headers without end")

    def on_body(self, body: bytes) -> None:
        self._body_size += len(body)
        super().on_body(body)

    def pause_writing(self) -> None:
        """Who does not read answers is not read from; `sweep` ends it where that goes on."""
        super().pause_writing()
        self._stalled_since = self.loop.time()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stalled_since = None
        self.flow.resume_reading()

    def on_message_complete(self) -> None:
        self._reading_since = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.pipeline:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self._idle_since = self.loop.time()
            if self._stalled_since is None:
                self.flow.resume_reading()

    def sweep(self, now: float) -> None:
        """Close the connection if nothing was asked for too long, or if a request or an answer gets nowhere."""
        begun = min(since for since in (self._reading_since, self._stalled_since, now) if since is not None)
        if now - begun > self._reading_seconds:
            self.transport.abort()
        elif self._idle_since is not None and now - self._idle_since > self.timeout_keep_alive:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, in the protocol's form."""
        status, text = (
            (400, msg) if self._message_size <= _MAX_HEAD else (431, f"headers have more than {_MAX_HEAD} bytes")
        )
        body = orjson.dumps({"error": text})
        self.transport.write(
            b"%bcontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (STATUS_LINE[status], len(body), body)
        )
        self.transport.close()

    def _begin_reading(self) -> None:
        self._idle_since, self._reading_since = None, self.loop.time()
        self._begun, self._message_size, self._body_size = self._begun + 1, 0, 0


class BoundedConnections:
    """ASGI middleware that asks old connections, and all of them during a drain, to end."""

    def __init__(self, app: ASGIApp, plane: Served, max_age_seconds: float) -> None:
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
