"""The analysis: what a candidate's own counters say since the step began. Too few requests is no verdict: hold."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from trimtab_api.spec import Analysis, AnalysisMetric
from trimtab_operator.core.observed import Sample
from trimtab_operator.core.times import read_time, write_time


@dataclass(frozen=True, slots=True)
class AnalysisState:
    """Where an analysis stands. `verdict` is True or False once decided, None while it holds."""

    started_at: datetime
    baseline: Sample
    requests: float = 0
    figures: tuple[tuple[str, float], ...] = ()
    verdict: bool | None = None
    message: str = ""


def analyse(step: Analysis, state: AnalysisState | None, sample: Sample | None, now: datetime) -> AnalysisState | None:
    """Judge the candidate by the growth of its counters since the baseline. Without a sample nothing changes."""
    if sample is None:
        return state
    if state is None or _went_back(state.baseline, sample):
        # A pod that restarted or left takes its counts along: what is left says nothing about the time before.
        return AnalysisState(now, sample, message=f"analysis: 0 of {step.min_requests} requests")
    grown = _grown(state.baseline, sample)
    figures = tuple((metric.name, _figure(metric.name, grown)) for metric in step.metrics)
    verdict, message = _verdict(step, grown, dict(figures), (now - state.started_at).total_seconds())
    return AnalysisState(state.started_at, state.baseline, grown.requests, figures, verdict, message)


def read_state(written: Mapping[str, Any] | None) -> AnalysisState | None:
    """Read the state back from status. What cannot be read starts anew."""
    try:
        baseline = (written or {})["baseline"]
        buckets = {float(k): float(v) for k, v in json.loads(baseline["buckets"]).items()}
        sample = Sample(float(baseline["requests"]), float(baseline["errors"]), buckets)
        started = read_time((written or {}).get("startedAt"))
        return AnalysisState(started, sample) if started else None
    except (KeyError, ValueError, TypeError):
        return None


def write_state(state: AnalysisState) -> dict[str, Any]:
    """Return the wire form for status."""
    baseline = state.baseline
    written: dict[str, Any] = {
        "startedAt": write_time(state.started_at),
        "baseline": {
            "requests": int(baseline.requests),
            "errors": int(baseline.errors),
            "buckets": json.dumps({f"{bound:g}": int(count) for bound, count in sorted(baseline.buckets.items())}),
        },
        "requests": int(state.requests),
    }
    return written | {name: round(value, 6) for name, value in state.figures if math.isfinite(value)}


def _verdict(step: Analysis, grown: Sample, figures: dict[str, float], elapsed: float) -> tuple[bool | None, str]:
    if grown.requests < step.min_requests:
        return None, f"analysis: {grown.requests:.0f} of {step.min_requests} requests"
    missed = [_complaint(metric, figures[metric.name]) for metric in step.metrics if figures[metric.name] > metric.max]
    if missed:
        return False, "; ".join(missed)
    shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    if any(not math.isfinite(value) for value in figures.values()) or elapsed < step.duration_seconds:
        return None, f"analysis: {grown.requests:.0f} requests, {shown}"
    return True, f"analysis passed: {grown.requests:.0f} requests, {shown}"


def _complaint(metric: AnalysisMetric, value: float) -> str:
    return f"{metric.name} is {value:.4g}, above the maximum {metric.max:.4g}"


def _figure(name: str, grown: Sample) -> float:
    if not grown.requests:
        return math.nan
    return grown.errors / grown.requests if name == "errorRate" else 1000 * quantile(grown.buckets, 0.95)


def quantile(buckets: Mapping[float, float], share: float) -> float:
    """Return the quantile in the unit of the bounds, interpolated within its bucket as Prometheus does.

    Above the last finite bound the answer is infinite: the histogram cannot say how slow it was.
    """
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if not total:
        return math.nan
    below, lower = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= share * total:
            if math.isinf(bound):
                return math.inf
            return min(bound, lower + (bound - lower) * (share * total - below) / (buckets[bound] - below))
        below, lower = buckets[bound], bound
    return math.inf


def _grown(before: Sample, after: Sample) -> Sample:
    buckets = {bound: count - before.buckets.get(bound, 0.0) for bound, count in after.buckets.items()}
    return Sample(after.requests - before.requests, after.errors - before.errors, buckets)


def _went_back(before: Sample, after: Sample) -> bool:
    return after.requests < before.requests or after.errors < before.errors
