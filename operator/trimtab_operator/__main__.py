"""The operator's process: configuration, Lease, then watch and work until SIGTERM or the Lease is lost."""

import asyncio
import logging
import signal
import sys
from datetime import UTC, datetime

import httpx
from prometheus_client import CollectorRegistry

from trimtab_operator.config import MissingSetting, OperatorConfig, read_config
from trimtab_operator.controller.reconcile import Context
from trimtab_operator.controller.workers import run_workers
from trimtab_operator.controller.workqueue import WorkQueue
from trimtab_operator.health import serve_health
from trimtab_operator.kube.client import ApiServer
from trimtab_operator.kube.connect import connect
from trimtab_operator.kube.events import EventRecorder
from trimtab_operator.kube.lease import LostLease, lead
from trimtab_operator.probes.metrics import PodMetrics
from trimtab_operator.probes.registry import RegistryProbe
from trimtab_operator.telemetry import ControllerMetrics, log_as_json
from trimtab_operator.watch.operator import watch

log = logging.getLogger("trimtab.operator")


def main() -> None:
    """Run the operator; the exit code is 1 where it could not start or lost its Lease."""
    try:
        config = read_config()
    except MissingSetting as error:
        sys.exit(str(error))
    log_as_json(config.log_level)
    try:
        asyncio.run(_run(config))
    except* LostLease:
        sys.exit("the Lease was lost: another operator may act now")


async def _run(config: OperatorConfig) -> None:
    registry = CollectorRegistry()
    metrics = ControllerMetrics(registry)
    health = await serve_health(config.health_port, registry)
    async with await connect() as api, httpx.AsyncClient() as http:
        settings = config.settings
        client = ApiServer(api)
        context = Context(
            client=client,
            registry=RegistryProbe(http, settings.artifact_repository, settings.insecure_registries),
            metrics=PodMetrics(http),
            recorder=EventRecorder(client),
            settings=settings,
            now=lambda: datetime.now(UTC),
        )
        leading = asyncio.create_task(
            lead(api, config.lease_namespace, config.lease_name, lambda: _work(config, context, metrics))
        )
        _stop_on_signal(leading)
        try:
            await leading
        except asyncio.CancelledError:
            log.info("stopped")
    await health.cleanup()


async def _work(config: OperatorConfig, context: Context, metrics: ControllerMetrics) -> None:
    log.info("leading", extra={"namespaces": list(config.namespaces) or "all"})
    queue = WorkQueue()
    async with asyncio.TaskGroup() as group:
        group.create_task(watch(queue.add, config.namespaces))
        group.create_task(run_workers(context, queue, metrics, config.workers))


def _stop_on_signal(task: asyncio.Task[None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)


if __name__ == "__main__":
    main()
