"""Another server gets copies of some requests, and its answers are compared with ours: callers never see them.

All of it happens in the event loop, so it has a budget: so many copies a second, and so many bytes, whatever is asked
here. What is copied waits in a short queue, and what finds no room there is left out.
"""

import asyncio
import random
from collections.abc import Mapping
from time import monotonic
from typing import Final, NamedTuple
from urllib.parse import quote, urlsplit

from trimtab_runtime.dataplane import Witness
from trimtab_runtime.engine.queueing import Feeds, Outputs
from trimtab_runtime.protocol.agreement import count_agreeing
from trimtab_runtime.protocol.asking import read_response, write_request
from trimtab_runtime.protocol.tensors import Array
from trimtab_runtime.server.answers import HEADER_LENGTH
from trimtab_runtime.server.metrics import ServerMetrics
from trimtab_runtime.server.upstream import Answered

_MOST_A_SECOND: Final = 100
_BYTES_A_SECOND: Final = 8 << 20
_BURST: Final = 0.1  # seconds' worth that may come at once
_LARGEST: Final = 1 << 20  # bytes of a copy, and of the answer to it several times as much
_MOST_ELEMENTS: Final = 4096  # of text, which is written one by one
_MOST_WAITING: Final = 64
_AT_ONCE: Final = 2
_SECONDS: Final = 5.0  # in which an answer has to have come
_ALL: Final = 100  # percent


class _Copy(NamedTuple):
    path: str
    metrics: ServerMetrics
    feeds: Feeds
    outputs: Outputs


class Shadowing:
    """Copies a part of all requests to the server at a URL, `percent` of them, to the models of the same names.

    It is one of so many `processes`, which share the budget.
    """

    def __init__(self, url: str, percent: float, tolerance: float, processes: int = 1) -> None:
        self._upstream_url = url
        self._percent = percent
        self._tolerance = tolerance
        self._processes = processes
        self._waiting: asyncio.Queue[_Copy] = asyncio.Queue(_MOST_WAITING)
        self._next = 0.0  # when there is budget again
        self._senders: list[asyncio.Task[None]] = []

    def witness(self, name: str, version: str | None, metrics: ServerMetrics) -> Witness:
        """Return what is told of each answer of a model; the version is the other server's own where there is none."""
        path = f"/v2/models/{quote(name)}" + (f"/versions/{quote(version)}" if version else "") + "/infer"

        def see(feeds: Feeds, outputs: Outputs) -> None:
            if random.random() * _ALL < self._percent and (why := self._copy(path, metrics, feeds, outputs)):
                metrics.observe_shadow(why)

        return see

    def close(self) -> None:
        """Send no more."""
        for sender in self._senders:
            sender.cancel()

    def _copy(self, path: str, metrics: ServerMetrics, feeds: Feeds, outputs: Outputs) -> str | None:
        """Queue a copy, or return why not."""
        now = monotonic()
        if now < self._next:
            return "limited"
        size = _size(feeds) + _size(outputs)
        if size > _LARGEST or self._waiting.full():
            return "skipped"
        seconds = self._processes * max(1 / _MOST_A_SECOND, size / _BYTES_A_SECOND)
        self._next = max(self._next, now - _BURST) + seconds
        own = {name: array.copy() for name, array in outputs.items()}  # not those of the whole batch with them
        self._waiting.put_nowait(_Copy(path, metrics, feeds, own))
        if not self._senders:
            self._senders = [asyncio.create_task(self._send()) for _ in range(_AT_ONCE)]
        return None

    async def _send(self) -> None:
        """Send one after the other, on a connection that is kept."""
        upstream = _Upstream(self._upstream_url)
        while True:
            copy = await self._waiting.get()
            try:
                async with asyncio.timeout(_SECONDS):
                    theirs = await upstream.infer(copy.path, copy.feeds)
                agreed = count_agreeing(copy.outputs, theirs, self._tolerance)
            except Exception:  # whatever it answers, the next copy is sent
                upstream.close()
                copy.metrics.observe_shadow("failed")
            else:
                copy.metrics.observe_shadow("answered", len(next(iter(copy.outputs.values()))), agreed)


class _Upstream:
    """A connection to the other server, made anew where it has ended. Raises OSError where none can be had."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)  # as the configuration has checked it
        self._host = parts.netloc
        self._address = parts.hostname or "", parts.port or 80
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def infer(self, path: str, feeds: Feeds) -> Outputs:
        """Return what the other server answers. Raises ValueError where that is no answer."""
        asked = write_request(feeds)
        lines = [f"POST {path} HTTP/1.1", f"host: {self._host}", "content-type: application/octet-stream"]
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
        answered, size = Answered(), 0
        while not answered.is_whole and (data := await reader.read(1 << 16)):
            answered.feed(data)
            size += len(data)
            if size > 4 * _LARGEST:
                raise ValueError("an answer that is much larger than ours")
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


def _size(tensors: Mapping[str, Array]) -> int:
    """Return the bytes of tensors; of very many texts, more than are copied."""
    return sum(_text_size(array) if array.dtype.kind in "OUS" else array.nbytes for array in tensors.values())


def _text_size(array: Array) -> int:
    return _LARGEST + 1 if array.size > _MOST_ELEMENTS else sum(len(element) for element in array.flat)
