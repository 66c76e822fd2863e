"""Metrics for Prometheus, by revision: an analysis reads them from the pod.

`code` is the HTTP status, or the name of the gRPC status. A caller that left before its answer counts as 499 or
CANCELLED: nobody's error. A gRPC deadline that passed counts as DEADLINE_EXCEEDED, which an analysis takes for ours.

Numbers are kept here and become metrics when they are asked for: the client library's own counters take a lock and a
microsecond each, as long as a small model runs.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate
from time import perf_counter
from types import MappingProxyType
from typing import Final, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric, Sample

from trimtab_runtime.engine.trial import Learned
from trimtab_runtime.protocol.request import Spent
from trimtab_runtime.server.tracing import Trace, Tracing
from trimtab_runtime.tallies import Row, Tallies

_SECONDS: Final = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_OTHER: Final = "other"
_CODES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "rest": ("200", "400", "404", "405", "413", "429", "499", "500", "503", "504", _OTHER),
        "grpc": (
            *("OK", "CANCELLED", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "RESOURCE_EXHAUSTED"),
            *("UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", _OTHER),
        ),
    }
)


_OUTCOMES: Final = ("answered", "failed", "limited", "skipped")  # of requests that were to be copied to another server


class _Distribution(NamedTuple):
    """Where the numbers of a distribution stand in a row: counts by upper bounds, beyond them, and the sum."""

    bounds: Sequence[float]
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.bounds) + 2

    def observe(self, row: Row, value: float) -> None:
        row[self.start + bisect_left(self.bounds, value)] += 1
        row[self.end - 1] += value

    def add_to(self, family: HistogramMetricFamily, row: Sequence[float], labels: Sequence[str] = ()) -> None:
        """Add what was counted to a metric."""
        bounds = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        counts = accumulate(row[self.start : self.end - 1])
        family.add_metric(labels, list(zip(bounds, counts, strict=True)), row[self.end - 1])


# A row, from its beginning.
_STARTS: Final = 0
_INFLIGHT: Final = 1
_INTAKE: Final = 2
_BATCH_ROWS: Final = _Distribution(_ROWS, 3)
_RUN_SECONDS: Final = _Distribution(_SECONDS, _BATCH_ROWS.end)
_DURATIONS: Final = {
    "rest": _Distribution(_SECONDS, _RUN_SECONDS.end),
    "grpc": _Distribution(_SECONDS, _RUN_SECONDS.end + len(_SECONDS) + 2),
}
_REQUESTS: Final = {
    (protocol, code): _DURATIONS["grpc"].end + at
    for at, (protocol, code) in enumerate((protocol, code) for protocol in _CODES for code in _CODES[protocol])
}
_SHADOWED: Final = {name: _DURATIONS["grpc"].end + len(_REQUESTS) + at for at, name in enumerate(_OUTCOMES)}
_SHADOW_ROWS: Final = {name: max(_SHADOWED.values()) + 1 + at for at, name in enumerate(("agreed", "differed"))}
_SIZE: Final = max(_SHADOW_ROWS.values()) + 1


def tallies_for(processes: int, models: int = 1) -> tuple[Tallies, ...]:
    """Return the memory in which as many processes of a server count, for each model."""
    return tuple(Tallies(processes, _SIZE) for _ in range(models))


def all_started(tallies: Tallies) -> bool:
    """Tell whether every process has been ready to serve."""
    return all(row[_STARTS] for row in tallies.rows)


class ServerMetrics:
    """Counts inference calls only: probes and scrapes would hide what callers see. A collector of prometheus_client.

    A `version` is that of a model of a collection, where it has its own. With several processes each has one of
    these, over the same tallies and with a `process` number of its own. Calls
    that have a trace are told of by `tracing`, where there is one.
    """

    def __init__(
        self,
        model: str,
        revision: str,
        tallies: Tallies | None = None,
        process: int = 0,
        tracing: Tracing | None = None,
        version: str | None = None,
    ) -> None:
        self.tracing: Final = tracing
        of_version = {} if version is None else {"version": version}
        self.labels: Final[Mapping[str, str]] = {"model": model, "revision": revision, **of_version}
        self._tallies = tallies or tallies_for(1)[0]
        self._row = self._tallies.rows[process]
        self._row[_INFLIGHT] = self._row[_INTAKE] = 0  # what a process before this one in its place had in hand is lost
        self._learned: Learned | None = None

    def started(self) -> None:
        """Count this process as ready to serve."""
        self._row[_STARTS] += 1

    @property
    def intake_cell(self) -> Row:
        """Return where the bytes of requests on their way are counted."""
        return self._row[_INTAKE : _INTAKE + 1]

    def learned(self, learned: Learned) -> None:
        """Take what a trial told of the model. Each process has its own trial, and tells of that."""
        self._learned = learned

    def observe_run(self, rows: int, seconds: float) -> None:
        """Count one run of the session."""
        _BATCH_ROWS.observe(self._row, rows)
        _RUN_SECONDS.observe(self._row, seconds)

    def observe_shadow(self, outcome: str, rows: int = 0, agreed: int = 0) -> None:
        """Count what became of a copy for another server, and the rows of its answer that agree with ours."""
        self._row[_SHADOWED[outcome]] += 1
        self._row[_SHADOW_ROWS["agreed"]] += agreed
        self._row[_SHADOW_ROWS["differed"]] += rows - agreed

    def begin(self) -> float:
        """Count an inference call as in progress, and return when it began."""
        self._row[_INFLIGHT] += 1
        return perf_counter()

    def hand_over(self, to: "ServerMetrics") -> "ServerMetrics":
        """Let a call that has begun go on as one of another model: which it asks for may be known late."""
        self._row[_INFLIGHT] -= 1
        to._row[_INFLIGHT] += 1
        return to

    def trace(self, parent: str | None) -> Trace | None:
        """Return the trace of a call that begins; None where nobody wants to know."""
        return None if self.tracing is None else self.tracing.begin(parent)

    def timing(self, trace: Trace | None) -> str | None:
        """Return the value of a header Server-Timing; None where answers have none."""
        return trace.timing() if trace and self.tracing and self.tracing.server_timing else None

    def end(self, protocol: str, code: str, began: float, trace: Trace | None = None) -> None:
        """Count an inference call that is over."""
        row = self._row
        row[_INFLIGHT] -= 1
        _DURATIONS[protocol].observe(row, perf_counter() - began)
        at = _REQUESTS.get((protocol, code))
        row[_REQUESTS[protocol, _OTHER] if at is None else at] += 1
        if trace is not None and self.tracing is not None:
            with suppress(Exception):  # to tell of a call may fail; its answer may not
                self.tracing.end(trace, protocol, code, self.labels)

    @contextmanager
    def request(self, protocol: str, unless_told: str, parent: str | None = None) -> Iterator["Outcome"]:
        """Time one inference call and count it under the code that it ends with; `parent` is its `traceparent`."""
        outcome, began = Outcome(unless_told, self.trace(parent)), self.begin()
        try:
            yield outcome
        finally:
            self.end(protocol, outcome.code, began, outcome.trace)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric as it is now, over all processes."""
        row = self._tallies.total()
        names, values = list(self.labels), list(self.labels.values())
        requests = CounterMetricFamily(
            "trimtab_requests", "Inference calls by outcome.", labels=[*names, "protocol", "code"]
        )
        for (protocol, code), at in _REQUESTS.items():
            if row[at]:
                requests.add_metric([*values, protocol, code], row[at])
        yield requests
        text = "Duration of inference calls."
        durations = HistogramMetricFamily("trimtab_request_duration_seconds", text, labels=[*names, "protocol"])
        for protocol, duration in _DURATIONS.items():
            if any(row[duration.start : duration.end]):
                duration.add_to(durations, row, [*values, protocol])
        yield durations
        yield GaugeMetricFamily("trimtab_inflight_requests", "Inference calls in progress.", row[_INFLIGHT])
        yield GaugeMetricFamily("trimtab_intake_bytes", "Bytes of requests that are on their way.", row[_INTAKE])
        for name, text, found in (
            ("trimtab_batch_rows", "Rows of a run.", _BATCH_ROWS),
            ("trimtab_run_duration_seconds", "Duration of runs of the model.", _RUN_SECONDS),
        ):
            family = HistogramMetricFamily(name, text, labels=names)
            found.add_to(family, row, values)
            yield family
        yield from self._shadowed(row)
        if self._learned is not None:
            learned = self._learned
            yield from batching(self.labels, learned.batch_rows, learned.difference, learned.is_safe)
        text = "Processes that were ready to serve; if more than there are, some died."
        yield CounterMetricFamily("trimtab_process_starts", text, row[_STARTS])
        info = GaugeMetricFamily("trimtab_model_info", "The model served.", labels=names)
        info.add_metric(values, 1)
        yield info

    def _shadowed(self, row: Sequence[float]) -> Iterator[Metric]:
        for name, text, places in (
            (
                "requests",
                "Copies for a shadow by outcome; limited: too many a second, skipped: too large, or no room.",
                _SHADOWED,
            ),
            ("rows", "Rows of a shadow's answers, by whether they agree with ours.", _SHADOW_ROWS),
        ):
            family = CounterMetricFamily(f"trimtab_shadow_{name}", text, labels=[*self.labels, "outcome"])
            for outcome, at in places.items():
                if row[at]:
                    family.add_metric([*self.labels.values(), outcome], row[at])
            yield family


class Merged:
    """The metrics of several models as one collector: what has the same name and labels is summed."""

    def __init__(self, models: Sequence[ServerMetrics]) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """Yield every metric as it is now."""
        families: dict[str, Metric] = {}
        samples: dict[str, dict[tuple[str, frozenset[tuple[str, str]]], Sample]] = {}
        for family in (family for model in self._models for family in model.collect()):
            families.setdefault(family.name, family)
            found = samples.setdefault(family.name, {})
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                before = found[key].value if key in found else 0.0
                found[key] = sample._replace(value=before + sample.value)
        for name, family in families.items():
            family.samples = list(samples[name].values())
            yield family


class Outcome:
    """The code that a request ends with; set by the server before the request is over."""

    def __init__(self, code: str, trace: Trace | None) -> None:
        self.code = code
        self.trace = trace

    @property
    def spent(self) -> Spent | None:
        """Return what wants to know where the time goes."""
        return None if self.trace is None else self.trace.spent


def batching(labels: Mapping[str, str], rows: int, difference: float, is_safe: bool) -> Iterator[Metric]:
    """Yield how a model is batched, which an operator asks for; `labels` tell which it is."""
    for name, text, value in (
        ("rows", "Most rows that run together.", rows),
        ("difference", "By how much answers differ in company, as a part of the largest output.", difference),
        ("safe", "Whether that is tolerated: 1 where requests run together, 0 where they run one by one.", is_safe),
    ):
        family = GaugeMetricFamily(f"trimtab_batching_{name}", text, labels=list(labels))
        family.add_metric(list(labels.values()), value)
        yield family
