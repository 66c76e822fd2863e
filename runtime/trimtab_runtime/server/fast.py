"""The fast path: inference calls are answered from the HTTP parser's own callbacks, without task, scope or framework.

Everything else, and every call that is unusual (pipelined, 100-continue, a query), goes to the ASGI application, which
gives the same answers; the tests of REST run over both. Made for the internals of the uvicorn that is pinned.
"""

from asyncio import Event
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from trimtab_runtime.dataplane import DataPlane
from trimtab_runtime.engine.queueing import Outputs, Waiting
from trimtab_runtime.protocol import rest
from trimtab_runtime.protocol.request import InferRequest
from trimtab_runtime.server.answers import (
    CLIENT_LEFT,
    HEADER_LENGTH,
    MAX_BODY,
    Answer,
    Headers,
    check_announced,
    check_received,
    error_answer,
    outputs_answer,
    read_header_length,
)
from trimtab_runtime.server.connections import TimedProtocol
from trimtab_runtime.server.metrics import ServerMetrics

_HEADER_LENGTH: Final = HEADER_LENGTH.encode()
_CLOSE: Final = b"connection: close\r\n"


@dataclass(frozen=True, slots=True)
class Inference:
    """Where inference calls go, and the age at which their connections end."""

    plane: DataPlane
    metrics: ServerMetrics
    max_age_seconds: float

    @property
    def paths(self) -> frozenset[bytes]:
        """Return the paths of inference calls, as they come without a query."""
        model = f"/v2/models/{quote(self.plane.name)}"
        version = f"{model}/versions/{quote(self.plane.version)}"
        return frozenset(f"{path}/infer".encode() for path in (model, version))


class Call:
    """An inference call. uvicorn asks the same of it as of a request of its own (RequestResponseCycle)."""

    __slots__ = (
        "began",
        "disconnected",
        "header_length",
        "keep_alive",
        "message_event",
        "parts",
        "response_complete",
        "size",
        "waiting",
    )

    def __init__(self, began: float, keep_alive: bool, header_length: str | None, event: Event) -> None:
        self.began = began
        self.keep_alive = keep_alive
        self.header_length = header_length
        self.message_event = event
        self.response_complete = self.disconnected = False
        self.parts: list[bytes] = []
        self.size = 0
        self.waiting: Waiting | None = None


class FastProtocol(TimedProtocol):
    """uvicorn's HTTP/1.1 protocol, which takes inference calls out before they become ASGI."""

    def __init__(self, *arguments: Any, inference: Inference, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._inference = inference
        self._paths = inference.paths
        self._event = Event()  # what uvicorn sets, and nobody waits for
        self._call: Call | None = None  # whose body is being read
        self._pending: Call | None = None  # that has no answer yet

    def on_message_begin(self) -> None:
        self._begin_reading()
        self._call = None
        self._announced = 0
        self._header_length: str | None = None
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers.append((name, value))
        if name == b"content-length":
            self._announced = int(value)
        elif name == _HEADER_LENGTH:
            self._header_length = value.decode("latin-1")
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        if not self._is_fast():
            self._hand_over()
            return
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        call = Call(self._inference.metrics.begin(), keep_alive, self._header_length, self._event)
        self._call = self._pending = call
        self.cycle = call  # type: ignore[assignment]
        if self._announced > MAX_BODY:
            self._guarded(call, check_announced, self._announced)

    def on_body(self, body: bytes) -> None:
        call = self._call
        if call is None:
            super().on_body(body)
        elif not call.response_complete:
            call.size += len(body)
            call.parts.append(body)
            if call.size > MAX_BODY:
                self._guarded(call, check_received, call.size)

    def on_message_complete(self) -> None:
        call, self._reading_since = self._call, None
        if call is None:
            super().on_message_complete()
        elif not call.response_complete:
            self._guarded(call, self._infer, call)

    def connection_lost(self, exc: Exception | None) -> None:
        call, self._pending = self._pending, None
        if call is not None:
            call.response_complete = True
            if call.waiting is not None:
                call.waiting.left = True
            self._inference.metrics.end("rest", str(CLIENT_LEFT), call.began)
        super().connection_lost(exc)

    def _is_fast(self) -> bool:
        """Tell whether this is a call as almost all are: nothing before it waits, and nothing is asked of us first."""
        return (
            self.url in self._paths
            and self.parser.get_method() == b"POST"
            and not self.expect_100_continue
            and not self.parser.should_upgrade()
            and (self.cycle is None or self.cycle.response_complete)
        )

    def _hand_over(self) -> None:
        """Let uvicorn go on as if it had seen the message from its beginning."""
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        HttpToolsProtocol.on_message_begin(self)
        self.url, self.expect_100_continue = url, expect
        self.headers = self.scope["headers"] = headers
        super().on_headers_complete()

    def _guarded(self, call: Call, step: Any, *given: Any) -> None:
        """Take a step; whatever it raises becomes the answer."""
        try:
            step(*given)
        except Exception as error:
            self._answer(call, error_answer(error))

    def _infer(self, call: Call) -> None:
        body = call.parts[0] if len(call.parts) == 1 else b"".join(call.parts)
        call.parts = []
        plane = self._inference.plane
        request = rest.read_request(body, read_header_length(call.header_length, body), plane.inputs)

        def done(result: Outputs | Exception) -> None:
            if isinstance(result, Exception):
                self._answer(call, error_answer(result))
            else:
                self._guarded(call, self._give, call, result, request)

        call.waiting = plane.submit(request, done)

    def _give(self, call: Call, outputs: Outputs, request: InferRequest) -> None:
        self._answer(call, outputs_answer(self._inference.plane, outputs, request))

    def _answer(self, call: Call, answer: Answer) -> None:
        if call.response_complete:
            return
        call.response_complete = True
        self._pending = None
        self._inference.metrics.end("rest", str(answer.status), call.began)
        if self.should_close(self._inference.plane.ready, self._inference.max_age_seconds):
            call.keep_alive = False
        if not self.transport.is_closing():
            self.transport.write(_written(answer, call.keep_alive))
            if not call.keep_alive:
                self.transport.close()
        self.on_response_complete()


def _written(answer: Answer, keep_alive: bool) -> bytes:
    return b"%bcontent-length: %d\r\n\r\n%b" % (
        _head(answer.status, answer.headers, keep_alive),
        len(answer.body),
        answer.body,
    )


@lru_cache(1024)
def _head(status: int, headers: Headers, keep_alive: bool) -> bytes:
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers]).encode("latin-1")
    return STATUS_LINE[status] + lines + (b"" if keep_alive else _CLOSE)
