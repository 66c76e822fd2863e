"""Workers: take a key, reconcile it, decide when to come back. One failing object delays no other."""

import asyncio
import logging
import random
import time

from trimtab_operator.controller.reconcile import Context, Reconciled, reconcile
from trimtab_operator.controller.workqueue import Key, WorkQueue
from trimtab_operator.kube.errors import ApiError, Conflict
from trimtab_operator.telemetry import ControllerMetrics

_RESYNC_SECONDS = 300.0  # heals what a watch may have missed

log = logging.getLogger("trimtab.operator")


async def run_workers(context: Context, queue: WorkQueue, metrics: ControllerMetrics, count: int) -> None:
    """Work until cancelled."""
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(_work(context, queue, metrics))


async def _work(context: Context, queue: WorkQueue, metrics: ControllerMetrics) -> None:
    while True:
        key = await queue.take()
        started = time.perf_counter()
        try:
            result = await _reconcile_once(context, queue, key)
        finally:
            queue.done(key)
        metrics.observe(result, time.perf_counter() - started, len(queue))


async def _reconcile_once(context: Context, queue: WorkQueue, key: Key) -> str:
    """Reconcile a key and queue it again where that is due. Returns the outcome as a word for the metrics."""
    try:
        reconciled = await reconcile(context, key)
    except ApiError as error:
        return _failed(queue, key, error)
    except Exception:
        # A defect of ours: the object waits longer and longer, the others go on, and the log has the trace.
        delay = queue.add_failed(key)
        log.exception("reconcile failed", extra=_about(key) | {"retry_seconds": delay})
        return "error"
    if reconciled is None:
        queue.forget(key)
        return "gone"
    return _come_back(queue, key, reconciled)


def _come_back(queue: WorkQueue, key: Key, reconciled: Reconciled) -> str:
    outcome = reconciled.outcome
    if outcome.done:
        log.info("reconciled", extra=_about(key) | {"done": list(outcome.done)})
    if outcome.failure:
        return _failed(queue, key, outcome.failure)
    queue.forget(key)
    queue.add_after(key, reconciled.requeue_after or _RESYNC_SECONDS * random.uniform(0.9, 1.1))
    if any(text.startswith(("applied", "deleted")) for text in outcome.done):
        # What was just written changes the facts; not every kind of change comes back as an event.
        queue.add_after(key, 0.2)
    return "changed" if outcome.done else "unchanged"


def _failed(queue: WorkQueue, key: Key, error: ApiError) -> str:
    if isinstance(error, Conflict):
        queue.add(key)
        return "conflict"
    delay = queue.add_failed(key)
    log.warning("the API server refused", extra=_about(key) | {"error": str(error), "retry_seconds": delay})
    return "refused"


def _about(key: Key) -> dict[str, object]:
    return {"namespace": key.namespace, "deployment": key.name}
