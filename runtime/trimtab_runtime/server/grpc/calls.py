"""Calls on one HTTP/2 connection: each has a method, is given messages, and is answered with messages and a status."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from trimtab_runtime.http2.connection import Connection, Stream
from trimtab_runtime.intake import Intake
from trimtab_runtime.logs import complain
from trimtab_runtime.protocol.errors import BadRequest, RequestError
from trimtab_runtime.protocol.grpc_wire import (
    ANSWER_HEAD,
    OK_TRAILERS,
    MessageReader,
    Status,
    accepted_type,
    framed,
    http_refusal,
    read_timeout,
    status_trailers,
    trailers_only,
)
from trimtab_runtime.server.tracing import TRACE_PARENT

_MOST_UNWANTED: Final = 1 << 20  # bytes of a request that is refused
_INTERNAL: Final = "internal error; the server's log has the cause"


class Method(Protocol):
    """A method of a service."""

    def begun(self, call: "Call") -> None:
        """A call has begun."""

    def message(self, call: "Call", content: bytes) -> None:
        """A message has come."""

    def ended(self, call: "Call") -> None:
        """No more will come."""

    def cancelled(self, call: "Call") -> None:
        """Its caller does not wait any more."""

    def failed(self, call: "Call", error: Exception) -> None:
        """Something of the above has failed, or a message could not be read: the call is to be ended."""


class Call:
    """A call. `answer` any number of times, then `end`; or `fail`. `context` belongs to the method."""

    __slots__ = (
        "_calls",
        "_has_head",
        "_stream",
        "context",
        "deadline",
        "held",
        "is_over",
        "kept",
        "messages",
        "method",
        "reader",
    )

    def __init__(self, calls: "Calls", stream: Stream, method: Method, timeout: float | None) -> None:
        self._calls = calls
        self._stream = stream
        self._has_head = False
        self.method = method
        self.reader = MessageReader(stream.request.fields.get(b"grpc-encoding"))
        self.messages = 0
        self.held = self.kept = 0  # bytes of it that are on their way, and of its largest message
        self.deadline = None if timeout is None else calls.now() + timeout
        self.is_over = False
        self.context: Any = None

    def left(self) -> float | None:
        """Return the seconds that its caller still waits; None where it did not say."""
        return None if self.deadline is None else self.deadline - self._calls.now()

    def trace_parent(self) -> str | None:
        """Return the trace that it belongs to, as its caller says."""
        found = self._stream.request.fields.get(TRACE_PARENT.encode())
        return None if found is None else found.decode("latin-1")

    def is_late(self) -> bool:
        """Tell whether its caller waits no more."""
        left = self.left()
        return left is not None and left <= 0

    def answer(self, message: bytes) -> None:
        """Send a message."""
        self._send(framed(message), None)

    def end(self, message: bytes | None = None) -> None:
        """Send a last message, if there is one, and the status OK."""
        self._send(b"" if message is None else framed(message), OK_TRAILERS)

    def fail(self, error: Exception) -> Status:
        """Send the status of an error, and return it. What is not the caller's fault goes to the log."""
        status, text = _status_of(error)
        self.refuse(status, text)
        return status

    def refuse(self, status: Status, text: str) -> None:
        """Send a status that is not OK."""
        if self.is_over:
            return
        if self._has_head:
            self._send(b"", status_trailers(status, text))
        else:
            self.is_over = True
            self._calls.refuse(self._stream, trailers_only(status, text))

    def _send(self, data: bytes, trailers: bytes | None) -> None:
        if self.is_over:
            return
        head = b"" if self._has_head else ANSWER_HEAD
        self._has_head, self.is_over = True, trailers is not None
        self._calls.send(self._stream, head, data, trailers)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer to a request that is no gRPC, given once all of it has come, or too much."""

    head: bytes
    body: bytes


class Calls:
    """The handler of a connection. `flush` is called when there may be something to send."""

    def __init__(self, methods: Mapping[bytes, Method], flush: Callable[[], None], intake: Intake) -> None:
        self._methods = methods
        self._intake = intake
        self._flush = flush
        self.now = asyncio.get_running_loop().time
        self.connection = Connection(self)

    def begun(self, stream: Stream) -> None:
        request = stream.request
        if request.method != b"POST" or not accepted_type(request.fields):
            status = 405 if request.method != b"POST" else 415
            stream.context = Refusal(http_refusal(status), b"this port speaks gRPC\n")
            return
        method = self._methods.get(request.path)
        if method is None:
            text = f"there is no method {request.path.decode('latin-1')}"
            self.refuse(stream, trailers_only(Status.UNIMPLEMENTED, text))
            return
        try:
            timeout = read_timeout(request.fields.get(b"grpc-timeout"))
        except RequestError as error:
            self.refuse(stream, trailers_only(*_status_of(error)))
            return
        call = stream.context = Call(self, stream, method, timeout)
        self._guarded(call, method.begun, call)

    def received(self, stream: Stream, data: bytes) -> None:
        call = stream.context
        if isinstance(call, Call) and not call.is_over:
            self._guarded(call, self._read, call, data)
            if call.is_over:
                self._release(call)
        elif isinstance(call, Refusal) and stream.received > _MOST_UNWANTED:
            self._refuse(stream, call)

    def completed(self, stream: Stream) -> None:
        call = stream.context
        if isinstance(call, Refusal):
            self._refuse(stream, call)
        elif isinstance(call, Call) and not call.is_over:
            self._guarded(call, self._ended, call)
            self._release(call)

    def aborted(self, stream: Stream) -> None:
        call = stream.context
        if isinstance(call, Call):
            self._release(call)
        if isinstance(call, Call) and not call.is_over:
            call.is_over = True
            call.method.cancelled(call)

    def send(self, stream: Stream, head: bytes, data: bytes, trailers: bytes | None) -> None:
        """Send a part of an answer."""
        self.connection.send(stream, head, data, trailers)
        self._flush()

    def refuse(self, stream: Stream, block: bytes) -> None:
        """Answer with a head alone."""
        self.connection.refuse(stream, block)
        self._flush()

    def _release(self, call: Call) -> None:
        self._intake.give(call.held)
        call.held = 0

    def _refuse(self, stream: Stream, refusal: Refusal) -> None:
        stream.context = None  # it is given once
        self.send(stream, refusal.head, refusal.body, b"")

    def _ended(self, call: Call) -> None:
        if not call.reader.is_empty:
            raise BadRequest("the last message is cut off")
        call.method.ended(call)

    def _read(self, call: Call, data: bytes) -> None:
        self._hold(call, call.held + len(data))
        for message in call.reader.add(data):
            call.messages += 1
            call.kept = max(call.kept, len(message))  # decompressed; a method keeps one at most
            self._hold(call, call.reader.size + call.kept)
            call.method.message(call, message)
        self._hold(call, call.reader.size + call.kept)

    def _hold(self, call: Call, size: int) -> None:
        """Count what is held of a call. Raises Busy where that is too much of all calls together."""
        before, call.held = call.held, size
        if size > before:
            self._intake.take(size - before)
        else:
            self._intake.give(before - size)

    def _guarded(self, call: Call, step: Callable[..., None], *given: Any) -> None:
        """Take a step; whatever it raises becomes the call's status."""
        try:
            step(*given)
        except Exception as error:
            call.method.failed(call, error)


def _status_of(error: Exception) -> tuple[Status, str]:
    if not isinstance(error, RequestError):
        complain("a call failed", error)
        return Status.INTERNAL, _INTERNAL
    if error.code == "INTERNAL":
        complain("inference failed", error.__cause__ or error)
    return Status[error.code], str(error)
