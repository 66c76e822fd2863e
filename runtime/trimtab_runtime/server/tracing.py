"""What is told of single inference calls, for who asks for it: a line in the log, a header, a span of OpenTelemetry.

Source: W3C Server Timing and Trace Context; OpenTelemetry's semantic conventions of HTTP and RPC servers.
"""

import asyncio
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from trimtab_runtime.config import RuntimeConfig
from trimtab_runtime.logs import say_at_once
from trimtab_runtime.protocol.request import Spent

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

TRACE_PARENT: Final = "traceparent"
SERVER_TIMING: Final = "server-timing"
_LOOK_SECONDS: Final = 0.01
_LAST_SPANS_SECONDS: Final = 3.0
_MS: Final = 1e3
_NS: Final = 1e9


class Trace:
    """An inference call that is told of. `spent` is filled in by the engine."""

    __slots__ = ("_began", "parent", "spent")

    def __init__(self, parent: str | None) -> None:
        self._began = time.perf_counter()
        self.parent = parent
        self.spent = Spent()

    def seconds(self) -> float:
        """Return the seconds since the call began."""
        return time.perf_counter() - self._began

    def timing(self) -> str:
        """Return the value of a Server-Timing header, in milliseconds."""
        spent = self.spent
        parts = {"queue": spent.queued, "run": spent.ran, "total": self.seconds()}
        return ", ".join(f"{name};dur={seconds * _MS:.3f}" for name, seconds in parts.items())


class Tracing:
    """Begins and ends traces. With `spans` they go to the OTLP endpoint that the variables OTEL_* name."""

    def __init__(self, name: str, revision: str, access_log: bool, server_timing: bool, spans: bool) -> None:
        self._access_log = access_log
        self.server_timing: Final = server_timing
        self._provider = _open_provider(name, revision) if spans else None
        self._tracer = self._provider.get_tracer("trimtab") if self._provider else None

    def begin(self, parent: str | None) -> Trace:
        """Return the trace of a call; `parent` is its header `traceparent`."""
        return Trace(parent)

    def end(self, trace: Trace, protocol: str, code: str, model: Mapping[str, str]) -> None:
        """Tell of a call that is over; `model` are the labels of the model that answered it."""
        seconds = trace.seconds()
        labels = {**model, "protocol": protocol}
        if self._tracer is not None:
            self._send(self._tracer, trace, labels, code, seconds)
        if self._access_log:
            self._write(trace, labels, code, seconds)

    def close(self) -> None:
        """Send what has not been sent yet; may take seconds."""
        if self._provider is not None:
            self._provider.shutdown()

    def _write(self, trace: Trace, labels: Mapping[str, str], code: str, seconds: float) -> None:
        spent = trace.spent
        times = {"seconds": seconds, "queueSeconds": spent.queued, "runSeconds": spent.ran}
        rounded = {name: round(value, 6) for name, value in times.items()}
        parent = {TRACE_PARENT: trace.parent} if trace.parent else {}
        say_at_once("request", **labels, code=code, **rounded, rows=spent.rows, **parent)

    def _send(self, tracer: "Tracer", trace: Trace, labels: Mapping[str, str], code: str, seconds: float) -> None:
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        end = time.time_ns()
        start = end - int(seconds * _NS)
        carrier = {TRACE_PARENT: trace.parent} if trace.parent else {}
        context = TraceContextTextMapPropagator().extract(carrier)
        key = "http.response.status_code" if labels["protocol"] == "rest" else "rpc.response.status_code"
        attributes: Mapping[str, str | int] = {**labels, "rows": trace.spent.rows, key: code}
        span = tracer.start_span("infer", context, SpanKind.SERVER, attributes, start_time=start)
        if span.is_recording():
            if is_our_fault(code):
                span.set_status(StatusCode.ERROR, code)
            inside, at = set_span_in_context(span), start
            # What reading and writing took is the rest of the call.
            for name, part in (("queue", trace.spent.queued), ("run", trace.spent.ran)):
                child = tracer.start_span(name, inside, start_time=at)
                at += int(part * _NS)
                child.end(at)
        span.end(end)


def open_tracing(config: RuntimeConfig, name: str) -> Tracing | None:
    """Return what tells of single calls; None where nobody wants to know."""
    if not (config.access_log or config.server_timing or config.spans):
        return None
    return Tracing(name, config.revision, config.access_log, config.server_timing, config.spans)


async def close_soon(tracing: Tracing) -> None:
    """Send what is left of spans, for a short time: a collector that is gone does not keep a pod from its end."""
    closing = threading.Thread(target=tracing.close, daemon=True)
    closing.start()
    for _ in range(int(_LAST_SPANS_SECONDS / _LOOK_SECONDS)):
        if not closing.is_alive():
            return
        await asyncio.sleep(_LOOK_SECONDS)


def is_our_fault(code: str) -> bool:
    """Tell whether a code is no fault of the caller."""
    return code.startswith("5") or code in ("INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED")


def _open_provider(name: str, revision: str) -> "TracerProvider":
    # late: it takes a fifth of a second and 20 MB
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    is_named = "OTEL_SERVICE_NAME" in os.environ or "service.name" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    own = {} if is_named else {"service.name": name}
    provider = TracerProvider(resource=Resource.create({**own, "service.version": revision}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
