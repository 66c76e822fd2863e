"""Metrics for Prometheus, by revision: an analysis reads them from the pod.

`code` is the HTTP status, or the name of the gRPC status. A caller that left before its answer counts as 499 or
CANCELLED: nobody's error. A gRPC deadline that passed counts as DEADLINE_EXCEEDED, which an analysis takes for ours.

Numbers are kept here and become metrics when they are asked for: the client library's own counters take a lock and a
microsecond each, as long as a small model runs.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from time import perf_counter
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

_SECONDS: Final = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Distribution:
    """Numbers counted by upper bounds."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str] = ()) -> None:
        """Add what was counted to a metric."""
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        family.add_metric(labels, list(zip(bounds, accumulate(self._counts), strict=True)), self._sum)


class Outcome:
    """The code that a request ends with; set by the server before the request is over."""

    def __init__(self, code: str) -> None:
        self.code = code


class ServerMetrics:
    """Counts inference calls only: probes and scrapes would hide what callers see. A collector of prometheus_client."""

    def __init__(self, model: str, revision: str) -> None:
        self._labels = (model, revision)
        self._requests: dict[tuple[str, str], int] = {}
        self._durations: dict[str, Distribution] = {}
        self._inflight = 0
        self._batch_rows = Distribution(_ROWS)
        self._run_seconds = Distribution(_SECONDS)

    def observe_run(self, rows: int, seconds: float) -> None:
        """Count one run of the session."""
        self._batch_rows.observe(rows)
        self._run_seconds.observe(seconds)

    def begin(self) -> float:
        """Count an inference call as in progress, and return when it began."""
        self._inflight += 1
        return perf_counter()

    def end(self, protocol: str, code: str, began: float) -> None:
        """Count an inference call that is over."""
        self._inflight -= 1
        duration = self._durations.get(protocol)
        if duration is None:
            duration = self._durations[protocol] = Distribution(_SECONDS)
        duration.observe(perf_counter() - began)
        key = (protocol, code)
        self._requests[key] = self._requests.get(key, 0) + 1

    @contextmanager
    def request(self, protocol: str, unless_told: str) -> Iterator[Outcome]:
        """Time one inference call and count it under the code that it ends with."""
        outcome, began = Outcome(unless_told), self.begin()
        try:
            yield outcome
        finally:
            self.end(protocol, outcome.code, began)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric as it is now."""
        names = ["model", "revision", "protocol"]
        requests = CounterMetricFamily("trimtab_requests", "Inference calls by outcome.", labels=[*names, "code"])
        for (protocol, code), count in self._requests.items():
            requests.add_metric([*self._labels, protocol, code], count)
        yield requests
        text = "Duration of inference calls."
        durations = HistogramMetricFamily("trimtab_request_duration_seconds", text, labels=names)
        for protocol, duration in self._durations.items():
            duration.add_to(durations, [*self._labels, protocol])
        yield durations
        yield GaugeMetricFamily("trimtab_inflight_requests", "Inference calls in progress.", self._inflight)
        yield _histogram("trimtab_batch_rows", "Rows of a run.", self._batch_rows)
        yield _histogram("trimtab_run_duration_seconds", "Duration of runs of the model.", self._run_seconds)
        info = GaugeMetricFamily("trimtab_model_info", "The model served.", labels=names[:2])
        info.add_metric(self._labels, 1)
        yield info


def _histogram(name: str, text: str, distribution: Distribution) -> Metric:
    family = HistogramMetricFamily(name, text, labels=())
    distribution.add_to(family)
    return family
