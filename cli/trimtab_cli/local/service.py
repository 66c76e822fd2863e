"""The Service of a laptop: one port that forwards each new connection to a ready pod of what is selected."""

import asyncio
import contextlib
import random
from collections.abc import Callable

_CHUNK = 1 << 16


class Forwarder:
    """Forwards TCP. `backends` gives the ports to choose from, anew for each connection, as kube-proxy would."""

    def __init__(self, backends: Callable[[], list[int]]) -> None:
        self._backends = backends
        self._server: asyncio.Server | None = None

    async def start(self, port: int) -> None:
        """Listen on a port of the loopback address."""
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", port)

    async def close(self) -> None:
        """Take no more connections."""
        if self._server is not None:
            self._server.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ports = self._backends()
        try:
            if not ports:
                return
            back_reader, back_writer = await asyncio.open_connection("127.0.0.1", random.choice(ports))
        except OSError:
            return
        finally:
            if not ports:
                writer.close()
        await asyncio.gather(_pipe(reader, back_writer), _pipe(back_reader, writer))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()
