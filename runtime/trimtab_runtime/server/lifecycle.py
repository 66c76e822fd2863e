"""Put a server of one model together. Ready only after a warm-up."""

import asyncio
import gc
import math
from functools import partial
from typing import Any, Final

import uvicorn

from trimtab_runtime.config import RuntimeConfig
from trimtab_runtime.dataplane import DataPlane
from trimtab_runtime.engine.batcher import Batcher, Limits
from trimtab_runtime.engine.pieces import piece_rows
from trimtab_runtime.engine.trial import learn
from trimtab_runtime.intake import Intake
from trimtab_runtime.logs import say
from trimtab_runtime.model.cpus import available_cpus
from trimtab_runtime.model.session import Model, load_model
from trimtab_runtime.server.connections import BoundedConnections, TimedProtocol
from trimtab_runtime.server.draining import DrainingServer, GrpcServer, certificates_of, rest_config
from trimtab_runtime.server.explaining import Explaining
from trimtab_runtime.server.fast import FastProtocol, Inference
from trimtab_runtime.server.metrics import ServerMetrics, all_started
from trimtab_runtime.server.place import Place, bind
from trimtab_runtime.server.rest import make_app
from trimtab_runtime.server.tls import Certificates
from trimtab_runtime.server.tracing import close_soon, open_tracing

_LOOK_SECONDS: Final = 0.01


async def serve(config: RuntimeConfig, place: Place) -> None:
    """Serve until SIGTERM and a drain. Raises InvalidPackage where the artifact cannot be served."""
    model = load_model(config.model_dir, config.threads or max(1, available_cpus() // config.workers))
    name = config.model_name or model.package.name
    tracing = open_tracing(config, name)
    metrics = ServerMetrics(name, config.revision, place.tallies, place.process, tracing)
    batcher = _batcher(config, model, metrics)
    plane = DataPlane(name, config.revision, model, batcher, Intake(config.intake_bytes, metrics.intake_cell))
    certificates = certificates_of(config)
    grpc = _grpc_server(config, plane, metrics, certificates)
    _collect_seldom()
    explaining = Explaining(config.explainer, plane, config.model_dir)
    rest = _rest_config(config, plane, metrics, certificates, explaining)
    metrics.started()
    while not all_started(place.tallies):
        await asyncio.sleep(_LOOK_SECONDS)
    sockets = [bind(config.host, config.rest_port, shared=True)] if place.shares_ports else None
    await DrainingServer(rest, plane, grpc, config.drain_seconds, certificates).serve(sockets)
    explaining.close()
    if tracing is not None:
        await close_soon(tracing)
    say("stopped", model=name, revision=config.revision)


def _collect_seldom() -> None:
    """Spare the garbage collector what is loaded and stays, and let it look for cycles seldom: requests make none."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


def _batcher(config: RuntimeConfig, model: Model, metrics: ServerMetrics) -> Batcher:
    """Return what feeds the model in the way that it runs best, as a trial tells."""
    learned = learn(model.run, model.make_rows, config.max_batch_size, config.batch_tolerance)
    metrics.learned(learned)
    one_shape = all(-1 not in item.shape[1:] for item in model.package.inputs)
    # Rows of any length may take any time: those of the trial say nothing of the longest.
    in_loop = learned.in_loop and one_shape if config.executor == "auto" else config.executor == "loop"
    say(
        "learned",
        batchRows=learned.batch_rows,
        runSeconds=round(learned.costs.of(learned.batch_rows), 6),
        inLoop=in_loop,
        batchDifference=learned.difference if math.isfinite(learned.difference) else None,
    )
    limits = Limits(learned.batch_rows, config.max_delay_seconds, config.max_wait_seconds)
    mixes = learned.is_safe and config.max_batch_size > 1
    pieces = piece_rows(learned.costs, learned.batch_rows, config.max_batch_size, in_loop) if mixes else None
    return Batcher(model.run, limits, learned.costs, metrics.observe_run, in_loop, one_shape, pieces)


def _grpc_server(
    config: RuntimeConfig, plane: DataPlane, metrics: ServerMetrics, certificates: Certificates | None
) -> GrpcServer | None:
    if "grpc" not in config.protocols:
        return None
    place = (plane, metrics, config.host, config.grpc_port, config.workers > 1)
    if config.grpc_engine == "lean":
        from trimtab_runtime.server.grpc.lean import LeanGrpcServer  # late, as a server of REST alone can do without

        return LeanGrpcServer(*place, config.max_connection_age_seconds, certificates)
    from trimtab_runtime.server.grpc.grpcio import GrpcioServer

    # Each connection has to have had its GOAWAY when the drain ends: to stop the server cancels calls that cross the
    # GOAWAY of the stop, while the one for old age lets them through. There is no third way to send one.
    age = min(config.max_connection_age_seconds, config.drain_seconds / 2 or math.inf)
    return GrpcioServer(*place, age, certificates)


def _rest_config(
    config: RuntimeConfig,
    plane: DataPlane,
    metrics: ServerMetrics,
    certificates: Certificates | None,
    explaining: Explaining,
) -> uvicorn.Config:
    app = make_app(plane, metrics, "rest" in config.protocols, explaining)
    bounded = BoundedConnections(app, plane, config.max_connection_age_seconds)
    return rest_config(config, bounded, _protocol(config, plane, metrics), certificates)


def _protocol(config: RuntimeConfig, plane: DataPlane, metrics: ServerMetrics) -> Any:
    """Return what makes the protocol of a connection."""
    if not config.fast_path or "rest" not in config.protocols:
        return partial(TimedProtocol, reading_seconds=config.read_timeout_seconds)
    inference = Inference(plane, metrics, config.max_connection_age_seconds)
    return partial(FastProtocol, inference=inference, reading_seconds=config.read_timeout_seconds)
