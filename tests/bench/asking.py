"""A caller on raw sockets: cheap enough to ask more than a server can answer, and sees what becomes of each request."""

import asyncio
from dataclasses import dataclass
from typing import Final, cast

from httptools import HttpResponseParser

_END: Final = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer: its status, and whether the connection ends with it."""

    status: int
    closes: bool


class Lost(Exception):
    """A request was sent, and the connection ended without its answer."""


class Connection(asyncio.Protocol):
    """A kept connection, with one request on its way at a time."""

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self._answer: asyncio.Future[Answered] | None = None
        self._transport: asyncio.Transport | None = None
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self.is_open = cast(asyncio.Transport, transport), True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Lost(str(exc)))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(Answered(self._parser.get_status_code(), not self._parser.should_keep_alive()))

    async def ask(self, request: bytes) -> Answered:
        """Send a request and return its answer. Raises Lost."""
        if not self.is_open or self._transport is None:
            raise Lost("the connection was closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """End."""
        if self._transport is not None:
            self._transport.abort()


async def connect(port: int) -> Connection:
    """Return a connection to a port of this machine."""
    _, found = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return found


def post(path: str, body: bytes) -> bytes:
    """Return a request."""
    head = f"POST {path} HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + _END + body
