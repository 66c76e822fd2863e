"""The metrics of serving pods, read from the pods themselves: an analysis needs no Prometheus."""

import asyncio
import math

import httpx
from prometheus_client.parser import text_string_to_metric_families

from trimtab_operator.core.observed import Batching, Pod, Sample

_PORT = 8080
_SECONDS = 3.0
_BATCHING = "trimtab_batching_"

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

    Of several models, the one is told whose rows differ most. The server may be older than the question, or somebody
    else's: what it answers is no reason to fail.
    """
    models: dict[tuple[str, ...], dict[str, float]] = {}
    try:
        for line in (line for family in text_string_to_metric_families(text) for line in family.samples):
            if line.name.startswith(_BATCHING):
                which = tuple(line.labels.get(name, "") for name in ("model", "version"))
                models.setdefault(which, {})[line.name.removeprefix(_BATCHING)] = line.value
    except ValueError:
        models = {}
    told = {which: found for which, found in models.items() if "safe" in found and math.isfinite(_rows(found))}
    if not told:
        return Batching(revision, 1, None, None)
    which, found = max(told.items(), key=lambda item: (not item[1]["safe"], _difference(item[1])))
    difference = _difference(found)
    measured = difference if math.isfinite(difference) else None
    model = " ".join(filter(None, which)) if len(told) > 1 else None
    return Batching(revision, max(1, int(_rows(found))), bool(found["safe"]), measured, model)


def _rows(found: dict[str, float]) -> float:
    return found.get("rows", 1.0)


def _difference(found: dict[str, float]) -> float:
    return found.get("difference", math.inf)


def add_samples(samples: list[Sample]) -> Sample:
    """Return the sum over pods."""
    buckets: dict[float, float] = {}
    for sample in samples:
        for bound, count in sample.buckets.items():
            buckets[bound] = buckets.get(bound, 0.0) + count
    return Sample(sum(item.requests for item in samples), sum(item.errors for item in samples), buckets)


def _is_server_fault(code: str) -> bool:
    return code.startswith("5") or code in _SERVER_FAULTS
