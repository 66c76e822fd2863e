"""The metrics of serving pods, read from the pods themselves: an analysis needs no Prometheus."""

import asyncio
import math

import httpx
from prometheus_client.parser import text_string_to_metric_families

from trimtab_operator.core.observed import Batching, Pod, Sample

_PORT = 8080
_SECONDS = 3.0

# gRPC codes that are the server's fault; the others are the caller's.
_SERVER_FAULTS = frozenset({"UNKNOWN", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "DEADLINE_EXCEEDED", "UNIMPLEMENTED"})


class PodMetrics:
    """Implements controller.observe.Metrics."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def sample(self, pods: tuple[Pod, ...]) -> Sample | None:
        """Return the summed counters of all pods; None if any pod gives none: half a picture is no picture."""
        texts = await asyncio.gather(*(self._read(pod) for pod in pods))
        samples = [found for text in texts if text is not None and (found := _read_sample(text)) is not None]
        return add_samples(samples) if samples and len(samples) == len(pods) else None

    async def batching(self, pod: Pod) -> Batching | None:
        """Return how a server batches; None where it does not tell."""
        text = await self._read(pod)
        return None if text is None else parse_batching(text, pod.revision)

    async def _read(self, pod: Pod) -> str | None:
        try:
            host = f"[{pod.ip}]" if pod.ip and ":" in pod.ip else pod.ip
            answer = await self._http.get(f"http://{host}:{_PORT}/metrics", timeout=_SECONDS)
        except (httpx.HTTPError, httpx.InvalidURL):
            return None
        return answer.text if answer.status_code == httpx.codes.OK else None


def _read_sample(text: str) -> Sample | None:
    """Read the counters of one pod; None where it serves something else on that port."""
    try:
        return parse_sample(text)
    except ValueError:
        return None


def parse_sample(text: str) -> Sample:
    """Read the counters of one pod from the text format of Prometheus."""
    requests = errors = 0.0
    buckets: dict[float, float] = {}
    for family in text_string_to_metric_families(text):
        for line in family.samples:
            if line.name == "trimtab_requests_total":
                requests += line.value
                errors += line.value if _is_server_fault(line.labels.get("code", "")) else 0.0
            elif line.name == "trimtab_request_duration_seconds_bucket":
                bound = float(line.labels["le"])
                buckets[bound] = buckets.get(bound, 0.0) + line.value
    return Sample(requests, errors, buckets)


def parse_batching(text: str, revision: str) -> Batching:
    """Read from the text format of Prometheus how a server batches; `safe` is None where it does not tell.

    Of several models, the one counts whose rows differ most. The server may be older than the question, or somebody
    else's: what it answers is no reason to fail.
    """
    found: dict[str, list[float]] = {}
    try:
        for line in (line for family in text_string_to_metric_families(text) for line in family.samples):
            found.setdefault(line.name, []).append(line.value)
    except ValueError:
        found = {}
    safe, rows = found.get("trimtab_batching_safe"), min(found.get("trimtab_batching_rows", [1.0]))
    if safe is None or not math.isfinite(rows):
        return Batching(revision, 1, None, None)
    difference = max(found.get("trimtab_batching_difference", [math.inf]))
    return Batching(revision, max(1, int(rows)), all(safe), difference if math.isfinite(difference) else None)


def add_samples(samples: list[Sample]) -> Sample:
    """Return the sum over pods."""
    buckets: dict[float, float] = {}
    for sample in samples:
        for bound, count in sample.buckets.items():
            buckets[bound] = buckets.get(bound, 0.0) + count
    return Sample(sum(item.requests for item in samples), sum(item.errors for item in samples), buckets)


def _is_server_fault(code: str) -> bool:
    return code.startswith("5") or code in _SERVER_FAULTS
