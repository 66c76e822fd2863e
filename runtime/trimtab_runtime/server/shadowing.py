"""Another server gets copies of some requests, and its answers are compared with ours: callers never see them.

What is copied waits in a short queue, and what finds no room there is left out. However much is asked here, no more
than a hundred requests a second are copied: enough to know, and a hundredth of a CPU.
"""

import asyncio
from time import monotonic
from typing import Final, NamedTuple
from urllib.parse import quote, urlsplit

from httptools import HttpParserError

from trimtab_runtime.dataplane import Witness
from trimtab_runtime.engine.queueing import Feeds, Outputs
from trimtab_runtime.protocol.agreement import count_agreeing
from trimtab_runtime.protocol.asking import read_response, write_request
from trimtab_runtime.server.answers import HEADER_LENGTH
from trimtab_runtime.server.metrics import ServerMetrics
from trimtab_runtime.server.upstream import Answered

_MOST_A_SECOND: Final = 100
_MOST_WAITING: Final = 64
_MOST_BYTES: Final = 16 << 20  # of requests that wait
_AT_ONCE: Final = 2
_SECONDS: Final = 5.0  # in which an answer has to have come
_ALL: Final = 100  # percent


class _Copy(NamedTuple):
    path: str
    metrics: ServerMetrics
    feeds: Feeds
    outputs: Outputs

    @property
    def size(self) -> int:
        return sum(array.nbytes for array in self.feeds.values())


class Shadowing:
    """Copies a part of all requests to the server at a URL, `percent` of them, to the models of the same names."""

    def __init__(self, url: str, percent: float, tolerance: float) -> None:
        parts = urlsplit(url)  # as the configuration has checked it
        self._address = parts.hostname or "", parts.port or 80
        self._percent = percent
        self._tolerance = tolerance
        self._waiting: asyncio.Queue[_Copy] = asyncio.Queue(_MOST_WAITING)
        self._bytes = 0
        self._next = 0.0
        self._senders: list[asyncio.Task[None]] = []

    def witness(self, name: str, version: str | None, metrics: ServerMetrics) -> Witness:
        """Return what is told of each answer of a model; the version is the other server's own where there is none."""
        path = f"/v2/models/{quote(name)}" + (f"/versions/{quote(version)}" if version else "") + "/infer"
        due = 0.0

        def see(feeds: Feeds, outputs: Outputs) -> None:
            nonlocal due
            due += self._percent
            if due >= _ALL:
                due -= _ALL
                self._copy(_Copy(path, metrics, feeds, outputs))

        return see

    def close(self) -> None:
        """Send no more."""
        for sender in self._senders:
            sender.cancel()

    def _copy(self, copy: _Copy) -> None:
        now = monotonic()
        is_room = not self._waiting.full() and self._bytes + copy.size <= _MOST_BYTES
        if now < self._next or not is_room:
            copy.metrics.observe_shadow("skipped")
            return
        self._next = max(self._next, now - 1 / _MOST_A_SECOND) + 1 / _MOST_A_SECOND
        self._bytes += copy.size
        self._waiting.put_nowait(copy)
        if not self._senders:
            self._senders = [asyncio.create_task(self._send()) for _ in range(_AT_ONCE)]

    async def _send(self) -> None:
        """Send one after the other, on a connection that is kept."""
        upstream = _Upstream(*self._address)
        while True:
            copy = await self._waiting.get()
            try:
                async with asyncio.timeout(_SECONDS):
                    theirs = await upstream.infer(copy.path, copy.feeds)
                agreed = count_agreeing(copy.outputs, theirs, self._tolerance)
            except (OSError, TimeoutError, HttpParserError, ValueError, KeyError, TypeError):
                upstream.close()
                copy.metrics.observe_shadow("failed")
            else:
                copy.metrics.observe_shadow("answered", len(next(iter(copy.outputs.values()))), agreed)
            finally:
                self._bytes -= copy.size


class _Upstream:
    """A connection to the other server, made anew where it has ended. Raises OSError where none can be had."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def infer(self, path: str, feeds: Feeds) -> Outputs:
        """Return what the other server answers. Raises ValueError where that is no answer."""
        asked = write_request(feeds)
        lines = [f"POST {path} HTTP/1.1", "host: shadow", "content-type: application/octet-stream"]
        lines += [f"{HEADER_LENGTH}: {asked.header_length}", f"content-length: {len(asked.body)}", "", ""]
        answered = await self._answered("\r\n".join(lines).encode() + asked.body)
        length = answered.header(HEADER_LENGTH)
        if answered.status != 200 or length is None or not length.isdigit():
            raise ValueError(f"the status {answered.status}, or no raw tensors")
        return read_response(answered.body, int(length))

    async def _answered(self, request: bytes) -> Answered:
        """Ask, and once more where a connection that was kept has ended meanwhile."""
        is_kept = self._streams is not None
        try:
            return await self._asked(request)
        except ConnectionError:
            self.close()
            if not is_kept:
                raise
            return await self._asked(request)

    async def _asked(self, request: bytes) -> Answered:
        reader, writer = self._streams or await asyncio.open_connection(*self._address)
        self._streams = reader, writer
        writer.write(request)
        answered = Answered()
        while not answered.is_whole and (data := await reader.read(1 << 16)):
            answered.feed(data)
        if not answered.is_whole:
            raise ConnectionError("it ended before its answer did")
        if not answered.keeps_connection:
            self.close()
        return answered

    def close(self) -> None:
        """End the connection."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None
