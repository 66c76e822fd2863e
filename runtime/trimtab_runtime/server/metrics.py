"""Metrics for Prometheus, in a registry of their own, by revision: an analysis reads them from the pod."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Outcome:
    """The code that a request ended with; set by the server before the request is over."""

    code = "500"


class ServerMetrics:
    """Counts inference calls only: probes and scrapes would hide what callers see."""

    def __init__(self, registry: CollectorRegistry, model: str, revision: str) -> None:
        self._labels = (model, revision)
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
        Gauge("trimtab_model_info", "The model served.", names[:2], registry=registry).labels(*self._labels).set(1)
        self.registry = registry

    def observe_batch(self, rows: int) -> None:
        """Count one run of the session."""
        self._rows.observe(rows)

    @contextmanager
    def request(self, protocol: str) -> Iterator[Outcome]:
        """Time one inference call and count it under the code that it ends with."""
        outcome, started = Outcome(), perf_counter()
        self._inflight.inc()
        try:
            yield outcome
        finally:
            self._inflight.dec()
            self._seconds.labels(*self._labels, protocol).observe(perf_counter() - started)
            self._requests.labels(*self._labels, protocol, outcome.code).inc()
