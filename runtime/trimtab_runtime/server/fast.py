"""The fast path: inference calls are answered from the HTTP parser's own callbacks, without task, scope or framework.

Callers ask in the same words again and again. So the head of a call that the parser has read is remembered, and where
the same bytes come again as the beginning of a message, with as much of a body as they announce and nothing after it,
the parser is not asked what they mean: from the same state it would say the same.

Everything else, and every call that is unusual (pipelined, 100-continue, a query), goes to the ASGI application, which
gives the same answers; the tests of REST run over both. Made for the internals of the uvicorn that is pinned.
"""

from asyncio import Event
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

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
from trimtab_runtime.server.endpoints import Endpoint, Endpoints
from trimtab_runtime.server.tracing import SERVER_TIMING, TRACE_PARENT, Trace

_HEADER_LENGTH: Final = HEADER_LENGTH.encode()
_TRACE_PARENT: Final = TRACE_PARENT.encode()
_CLOSE: Final = b"connection: close\r\n"
_END: Final = b"\r\n\r\n"
_LONGEST_HEAD: Final = 4096  # bytes of one that is remembered
_HEADS: Final = 512


@dataclass(frozen=True)
class Inference:
    """Where inference calls go, and the age at which their connections end."""

    endpoints: Endpoints
    max_age_seconds: float

    heads: "dict[bytes, Head]" = field(default_factory=dict)

    @cached_property
    def paths(self) -> Mapping[bytes, Endpoint]:
        """Return what is called by each path, as it comes without a query."""
        found: dict[bytes, Endpoint] = {}
        for endpoint in self.endpoints.all:
            model = f"/v2/models/{quote(endpoint.plane.name)}"
            found.setdefault(f"{model}/infer".encode(), endpoint)
            found[f"{model}/versions/{quote(endpoint.plane.version)}/infer".encode()] = endpoint
        return found


class Head(NamedTuple):
    """What the parser said of the head of a call."""

    endpoint: Endpoint
    announced: int  # bytes of the body
    keep_alive: bool
    header_length: str | None


class Call:
    """An inference call. uvicorn asks the same of it as of a request of its own (RequestResponseCycle)."""

    __slots__ = (
        "began",
        "disconnected",
        "endpoint",
        "held",
        "keep_alive",
        "message_event",
        "parts",
        "response_complete",
        "size",
        "trace",
        "waiting",
    )

    def __init__(self, endpoint: Endpoint, began: float, keep_alive: bool, event: Event, trace: Trace | None) -> None:
        self.endpoint = endpoint
        self.began = began
        self.trace = trace
        self.keep_alive = keep_alive
        self.message_event = event
        self.response_complete = self.disconnected = False
        self.parts: list[bytes] = []
        self.size = self.held = 0
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
        self._keep_alive = True

    def data_received(self, data: bytes) -> None:
        end = data.find(_END, 0, _LONGEST_HEAD) + len(_END)
        if end < len(_END) or not self._is_between_messages():
            super().data_received(data)
            return
        head = self._inference.heads.get(data[:end])
        if head is not None and len(data) == end + head.announced:
            self._idle_since = None
            self._infer_whole(head, data[end:])
            return
        super().data_received(data)
        is_whole = self._begun == 1 and self._reading_since is None and len(data) == end + self._announced
        call = self._call
        if is_whole and call is not None and self._trace_parent is None:
            self._remember(data[:end], Head(call.endpoint, self._announced, self._keep_alive, self._header_length))

    def on_message_begin(self) -> None:
        self._begin_reading()
        self._call = None
        self._announced = 0
        self._header_length: str | None = None
        self._trace_parent: str | None = None  # another one with each call, so that such heads never come again
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
        elif name == _TRACE_PARENT:
            self._trace_parent = value.decode("latin-1")
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True

    def on_headers_complete(self) -> None:
        endpoint = self._paths.get(self.url)
        if endpoint is None or not self._is_fast():
            self._hand_over()
            return
        self._keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        call = self._call = self._new_call(endpoint, self._keep_alive, self._trace_parent)
        if self._announced > MAX_BODY:
            self._guarded(call, check_announced, self._announced)

    def on_body(self, body: bytes) -> None:
        call = self._call
        if call is None:
            super().on_body(body)
            return
        self._body_size += len(body)
        if not call.response_complete:
            call.parts.append(body)
            call.size += len(body)
            call.held += len(body)
            self._guarded(call, self._take, call, len(body))

    def on_message_complete(self) -> None:
        call, self._reading_since = self._call, None
        if call is None:
            super().on_message_complete()
        elif not call.response_complete:
            body = call.parts[0] if len(call.parts) == 1 else b"".join(call.parts)
            self._release(call)
            self._guarded(call, self._infer, call, body, self._header_length)

    def connection_lost(self, exc: Exception | None) -> None:
        call, self._pending = self._pending, None
        if call is not None:
            call.response_complete = True
            self._release(call)
            if call.waiting is not None:
                call.waiting.left, call.waiting = True, None
            call.endpoint.metrics.end("rest", str(CLIENT_LEFT), call.began, call.trace)
        super().connection_lost(exc)

    def _take(self, call: Call, size: int) -> None:
        self._inference.endpoints.intake.take(size)
        check_received(call.size)

    def _release(self, call: Call) -> None:
        """Hold nothing of a body any more."""
        call.parts = []
        self._inference.endpoints.intake.give(call.held)
        call.held = 0

    def _is_between_messages(self) -> bool:
        """Tell whether the parser has nothing in hand, and nothing waits for an answer."""
        return self._reading_since is None and (self.cycle is None or self.cycle.response_complete)

    def _remember(self, data: bytes, head: Head) -> None:
        heads = self._inference.heads
        if len(heads) >= _HEADS:
            heads.clear()
        heads[data] = head

    def _infer_whole(self, head: Head, body: bytes) -> None:
        call = self._new_call(head.endpoint, head.keep_alive, None)
        self._guarded(call, self._infer, call, body, head.header_length)

    def _new_call(self, endpoint: Endpoint, keep_alive: bool, trace_parent: str | None) -> Call:
        metrics = endpoint.metrics
        call = Call(endpoint, metrics.begin(), keep_alive, self._event, metrics.trace(trace_parent))
        self._pending = call
        self.cycle = call  # type: ignore[assignment]
        return call

    def _is_fast(self) -> bool:
        """Tell whether this is a call as almost all are: nothing before it waits, and nothing is asked of us first."""
        return (
            self.parser.get_method() == b"POST"
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

    def _infer(self, call: Call, body: bytes, header_length: str | None) -> None:
        plane, length = call.endpoint.plane, read_header_length(header_length, body)
        plane.check_room(rest.announced_timeout(body, length) if plane.is_crowded else None)
        request = rest.read_request(body, length, plane.inputs)
        if call.trace is not None:
            request = request._replace(spent=call.trace.spent)

        def done(result: Outputs | Exception) -> None:
            if isinstance(result, Exception):
                self._answer(call, error_answer(result))
            else:
                self._guarded(call, self._give, call, result, request)

        waiting = plane.submit(request, done)
        if not call.response_complete:
            call.waiting = waiting

    def _give(self, call: Call, outputs: Outputs, request: InferRequest) -> None:
        self._answer(call, outputs_answer(call.endpoint.writer, outputs, request))

    def _answer(self, call: Call, answer: Answer) -> None:
        if call.response_complete:
            return
        call.response_complete = True
        if call.held:
            self._release(call)
        call.waiting = None  # it knows the call: without this, only the garbage collector could free the two
        self._pending = None
        has_left = self.transport.is_closing()
        metrics = call.endpoint.metrics
        metrics.end("rest", str(CLIENT_LEFT if has_left else answer.status), call.began, call.trace)
        if self.should_close(self._inference.endpoints.ready, self._inference.max_age_seconds):
            call.keep_alive = False
        if not has_left:
            self.transport.write(_written(answer, call.keep_alive, metrics.timing(call.trace)))
            if not call.keep_alive:
                self.transport.close()
        self.on_response_complete()


def _written(answer: Answer, keep_alive: bool, timing: str | None) -> bytes:
    head = _head(answer.status, answer.headers, keep_alive)
    if timing is not None:
        head += f"{SERVER_TIMING}: {timing}\r\n".encode()
    return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(answer.body), answer.body)


@lru_cache(1024)
def _head(status: int, headers: Headers, keep_alive: bool) -> bytes:
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers]).encode("latin-1")
    return STATUS_LINE[status] + lines + (b"" if keep_alive else _CLOSE)
