"""Put a server of models together. Ready only after a warm-up of all."""

import asyncio
import gc
import math
from functools import partial
from typing import Any, Final

import uvicorn

from trimtab_runtime.config import RuntimeConfig
from trimtab_runtime.intake import Intake
from trimtab_runtime.logs import say
from trimtab_runtime.model.manifest import offered, read_manifest
from trimtab_runtime.server.connections import BoundedConnections, TimedProtocol
from trimtab_runtime.server.draining import DrainingServer, GrpcServer, certificates_of, rest_config
from trimtab_runtime.server.endpoints import Endpoints
from trimtab_runtime.server.explaining import Explaining
from trimtab_runtime.server.fast import FastProtocol, Inference
from trimtab_runtime.server.loading import load_endpoints
from trimtab_runtime.server.metrics import all_started
from trimtab_runtime.server.place import Place, bind
from trimtab_runtime.server.rest import make_app
from trimtab_runtime.server.shadowing import Shadowing
from trimtab_runtime.server.tls import Certificates
from trimtab_runtime.server.tracing import close_soon, open_tracing

_LOOK_SECONDS: Final = 0.01


async def serve(config: RuntimeConfig, place: Place) -> None:
    """Serve until SIGTERM and a drain. Raises InvalidPackage where the artifact cannot be served."""
    package = read_manifest(config.model_dir)
    name = config.model_name or package.name
    tracing = open_tracing(config, name)
    shadowing = _shadowing(config)
    models = offered(config.model_dir, package, name, config.revision)
    served = load_endpoints(config, models, place, tracing, shadowing)
    of_process = served[0].metrics
    endpoints = Endpoints(name, config.revision, served, Intake(config.intake_bytes, of_process.intake_cell))
    certificates = certificates_of(config)
    grpc = _grpc_server(config, endpoints, certificates)
    _collect_seldom()
    explaining = Explaining(config.explainer, endpoints, config.model_dir, package.models is not None)
    rest = _rest_config(config, endpoints, certificates, explaining)
    of_process.started()
    while not all_started(place.tallies[0]):
        await asyncio.sleep(_LOOK_SECONDS)
    sockets = [bind(config.host, config.rest_port, shared=True)] if place.shares_ports else None
    await DrainingServer(rest, endpoints, grpc, config.drain_seconds, certificates).serve(sockets)
    explaining.close()
    if shadowing is not None:
        shadowing.close()
    if tracing is not None:
        await close_soon(tracing)
    say("stopped", model=name, revision=config.revision)


def _shadowing(config: RuntimeConfig) -> Shadowing | None:
    if config.shadow is None:
        return None
    return Shadowing(config.shadow, config.shadow_percent, config.shadow_tolerance, config.workers)


def _collect_seldom() -> None:
    """Spare the garbage collector what is loaded and stays, and let it look for cycles seldom: requests make none."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


def _grpc_server(config: RuntimeConfig, endpoints: Endpoints, certificates: Certificates | None) -> GrpcServer | None:
    if "grpc" not in config.protocols:
        return None
    place = (endpoints, config.host, config.grpc_port, config.workers > 1)
    if config.grpc_engine == "lean":
        from trimtab_runtime.server.grpc.lean import LeanGrpcServer  # late, as a server of REST alone can do without

        return LeanGrpcServer(*place, config.max_connection_age_seconds, certificates)
    from trimtab_runtime.server.grpc.grpcio import GrpcioServer

    # Each connection has to have had its GOAWAY when the drain ends: to stop the server cancels calls that cross the
    # GOAWAY of the stop, while the one for old age lets them through. There is no third way to send one.
    age = min(config.max_connection_age_seconds, config.drain_seconds / 2 or math.inf)
    return GrpcioServer(*place, age, certificates)


def _rest_config(
    config: RuntimeConfig, endpoints: Endpoints, certificates: Certificates | None, explaining: Explaining
) -> uvicorn.Config:
    app = make_app(endpoints, "rest" in config.protocols, explaining)
    bounded = BoundedConnections(app, endpoints, config.max_connection_age_seconds)
    return rest_config(config, bounded, _protocol(config, endpoints), certificates)


def _protocol(config: RuntimeConfig, endpoints: Endpoints) -> Any:
    """Return what makes the protocol of a connection."""
    if not config.fast_path or "rest" not in config.protocols:
        return partial(TimedProtocol, reading_seconds=config.read_timeout_seconds)
    inference = Inference(endpoints, config.max_connection_age_seconds)
    return partial(FastProtocol, inference=inference, reading_seconds=config.read_timeout_seconds)
