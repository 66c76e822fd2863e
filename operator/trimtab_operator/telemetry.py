"""Logs as JSON lines and metrics for Prometheus, in a registry of our own."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

_STANDARD = frozenset(vars(logging.makeLogRecord({})))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and whatever the caller added."""

    def format(self, record: logging.LogRecord) -> str:
        content: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        content |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            content["trace"] = self.formatException(record.exc_info)
        return json.dumps(content, default=str)


def log_as_json(level: str) -> None:
    """Send the logs of the process to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("kopf", "httpx", "httpcore", "aiohttp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class ControllerMetrics:
    """What the controller did: reconciles by outcome, their duration, the length of the queue."""

    def __init__(self, registry: CollectorRegistry) -> None:
        ProcessCollector(registry=registry)
        self._reconciles = Counter("trimtab_reconciles", "Reconciles by outcome.", ["outcome"], registry=registry)
        self._seconds = Histogram("trimtab_reconcile_seconds", "Duration of a reconcile.", registry=registry)
        self._queue = Gauge("trimtab_queue_length", "Keys that wait for a worker.", registry=registry)

    def observe(self, outcome: str, seconds: float, queue_length: int) -> None:
        """Count one reconcile."""
        self._reconciles.labels(outcome).inc()
        self._seconds.observe(seconds)
        self._queue.set(queue_length)
