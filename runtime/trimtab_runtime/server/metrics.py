"""Metrics for Prometheus, in a registry of their own, by revision: an analysis reads them from the pod.

`code` is the HTTP status, or the name of the gRPC status. A caller that left before its answer counts as 499 or
CANCELLED: nobody's error. A gRPC deadline that passed counts as DEADLINE_EXCEEDED, which an analysis takes for ours.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Outcome:
    """The code that a request ends with; set by the server before the request is over."""

    def __init__(self, code: str) -> None:
        self.code = code


class ServerMetrics:
    """Counts inference calls only: probes and scrapes would hide what callers see."""

    def __init__(self, registry: CollectorRegistry, model: str, revision: str) -> None:
        self.registry = registry
        self._labels = {"model": model, "revision": revision}
        names = ["model", "revision", "protocol"]
        self._requests = Counter("trimtab_requests", "Inference calls by outcome.", [*names, "code"], registry=registry)
        self._seconds = Histogram(
            "trimtab_request_duration_seconds",
            "Duration of inference calls.",
            names,
            buckets=_SECONDS,
            registry=registry,
        )
        self._inflight = Gauge("trimtab_inflight_requests", "Inference calls in progress.", registry=registry)
        self._rows = Histogram("trimtab_batch_rows", "Rows of a run.", buckets=_ROWS, registry=registry)
        info = Gauge("trimtab_model_info", "The model served.", names[:2], registry=registry)
        info.labels(**self._labels).set(1)
        self._counters: dict[tuple[str, str], Counter] = {}
        self._timers: dict[str, Histogram] = {}

    def observe_batch(self, rows: int) -> None:
        """Count one run of the session."""
        self._rows.observe(rows)

    @contextmanager
    def request(self, protocol: str, unless_told: str) -> Iterator[Outcome]:
        """Time one inference call and count it under the code that it ends with."""
        outcome, started = Outcome(unless_told), perf_counter()
        self._inflight.inc()
        try:
            yield outcome
        finally:
            self._inflight.dec()
            self._timer(protocol).observe(perf_counter() - started)
            self._counter(protocol, outcome.code).inc()

    def _timer(self, protocol: str) -> Histogram:
        """Return the histogram of a protocol; finding it by labels each time costs more than the observation."""
        if protocol not in self._timers:
            self._timers[protocol] = self._seconds.labels(**self._labels, protocol=protocol)
        return self._timers[protocol]

    def _counter(self, protocol: str, code: str) -> Counter:
        key = (protocol, code)
        if key not in self._counters:
            self._counters[key] = self._requests.labels(**self._labels, protocol=protocol, code=code)
        return self._counters[key]
