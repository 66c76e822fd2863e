"""Metrics of generation, beside those of requests: tokens, who runs and who waits, and how soon answers begin."""

import math
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from trimtab_runtime.server.metrics import ServerMetrics, batching

_SECONDS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)


class GenerationMetrics:
    """A collector of prometheus_client, and what an engine's thread tells. Runs go to the common metrics."""

    def __init__(self, metrics: ServerMetrics) -> None:
        self._metrics = metrics
        self._together: tuple[int, float | None] | None = None
        self._first = [0] * (len(_SECONDS) + 1)
        self._first_sum = 0.0
        self._prompt = self._cached = self._answered = 0
        self._running = self._waiting = 0

    def learned(self, rows: int, difference: float | None) -> None:
        """Take what a trial told: how many answers run together, and by how much that changes them (None: none do)."""
        self._together = (rows, difference)

    def observe_run(self, rows: int, seconds: float) -> None:
        """Count one token of as many answers."""
        self._metrics.observe_run(rows, seconds)

    def observe_first(self, seconds: float, prompt: int, cached: int) -> None:
        """Count an answer that begins."""
        self._first[bisect_left(_SECONDS, seconds)] += 1
        self._first_sum += seconds
        self._prompt += prompt
        self._cached += cached

    def observe_tokens(self, count: int) -> None:
        """Count the tokens of an answer that is over."""
        self._answered += count

    def observe_work(self, running: int, waiting: int) -> None:
        """Remember how much there is to do."""
        self._running, self._waiting = running, waiting

    def collect(self) -> Iterator[Metric]:
        """Yield every metric as it is now."""
        text = "Tokens of prompts, among them those that an answer before had left behind."
        yield CounterMetricFamily("trimtab_prompt_tokens", text, self._prompt)
        yield CounterMetricFamily("trimtab_cached_prompt_tokens", "Tokens of prompts that were not read.", self._cached)
        yield CounterMetricFamily("trimtab_generated_tokens", "Tokens of answers that are over.", self._answered)
        yield GaugeMetricFamily("trimtab_running_answers", "Answers that are being given.", self._running)
        yield GaugeMetricFamily("trimtab_waiting_prompts", "Prompts that wait for room.", self._waiting)
        text = "Seconds from a request to the first token of its answer."
        family = HistogramMetricFamily("trimtab_time_to_first_token_seconds", text)
        bounds = [*(str(bound) for bound in _SECONDS), "+Inf"]
        family.add_metric([], list(zip(bounds, accumulate(self._first), strict=True)), self._first_sum)
        yield family
        if self._together is not None:
            rows, difference = self._together
            apart = math.inf if difference is None else difference
            yield from batching(self._metrics.labels, rows, apart, difference is not None)
