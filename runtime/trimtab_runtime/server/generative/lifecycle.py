"""Put a server of a generative model together. Ready only after it has read and written tokens."""

import asyncio
from functools import partial
from typing import Final

from starlette.applications import Starlette

from trimtab_api.errors import InvalidSpec
from trimtab_runtime.config import RuntimeConfig
from trimtab_runtime.generation.engine import Engine
from trimtab_runtime.generation.folder import read_folder
from trimtab_runtime.generation.loading import load_decoder, load_single
from trimtab_runtime.generation.words import Words
from trimtab_runtime.intake import Intake
from trimtab_runtime.logs import say
from trimtab_runtime.model.cpus import available_cpus
from trimtab_runtime.model.manifest import read_manifest
from trimtab_runtime.model.sums import verified
from trimtab_runtime.server import health
from trimtab_runtime.server.connections import BoundedConnections, TimedProtocol
from trimtab_runtime.server.draining import DrainingServer, certificates_of, rest_config
from trimtab_runtime.server.generative import page, routes
from trimtab_runtime.server.generative.metrics import GenerationMetrics
from trimtab_runtime.server.generative.plane import EXTENSIONS, GenerativePlane, teller
from trimtab_runtime.server.generative.requests import MOST_CHOICES, Reader
from trimtab_runtime.server.metrics import ServerMetrics
from trimtab_runtime.server.place import Place
from trimtab_runtime.server.rest import application
from trimtab_runtime.server.tracing import close_soon, open_tracing

_WAITING_FOR_EACH: Final = 8  # prompts that may wait for every answer that can be given at once


async def serve_generative(config: RuntimeConfig, place: Place) -> None:
    """Serve until SIGTERM and a drain. Raises InvalidPackage, and InvalidSpec for settings that do not fit."""
    if config.workers > 1:
        raise InvalidSpec(
            "a generative model is served by one process, which gives many answers at once; set workers to 1"
        )
    name = config.model_name or read_manifest(config.model_dir).name
    tracing = open_tracing(config, name)
    metrics = ServerMetrics(name, config.revision, place.tallies[0], place.process, tracing)
    generation = GenerationMetrics(metrics)
    plane, engine = _plane(config, name, generation, Intake(config.intake_bytes, metrics.intake_cell))
    certificates = certificates_of(config)
    app = BoundedConnections(_app(plane, metrics, generation), plane, config.max_connection_age_seconds)
    protocol = partial(TimedProtocol, reading_seconds=config.read_timeout_seconds)
    rest = rest_config(config, app, protocol, certificates)
    metrics.started()
    await DrainingServer(rest, plane, None, config.drain_seconds, certificates).serve()
    engine.close()
    if tracing is not None:
        await close_soon(tracing)
    say("stopped", model=name, revision=config.revision)


def _plane(
    config: RuntimeConfig, name: str, generation: GenerationMetrics, intake: Intake
) -> tuple[GenerativePlane, Engine]:
    with verified(config.model_dir):
        folder = read_folder(config.model_dir)
        words = Words(folder)
        threads = config.threads or available_cpus()
        load = load_decoder if config.decoder == "auto" else load_single
        loaded = load(folder, threads, config.max_batch_size, config.cache_bytes)
    decoder = loaded.decoder
    say("learned", together=loaded.difference is not None, difference=loaded.difference, mostTokens=decoder.most_tokens)
    generation.learned(config.max_batch_size, loaded.difference)
    most_waiting = max(MOST_CHOICES, _WAITING_FOR_EACH * config.max_batch_size)
    tell = teller(asyncio.get_running_loop())
    engine = Engine(decoder, words, folder.ends, most_waiting, generation, tell)
    reader = Reader(words, folder.defaults, folder.vocabulary, config.answer_tokens, decoder.most_tokens)
    return GenerativePlane(name, config.revision, engine, words, reader, intake), engine


def _app(plane: GenerativePlane, metrics: ServerMetrics, generation: GenerationMetrics) -> Starlette:
    found = [
        *health.routes(plane, [metrics, generation], EXTENSIONS),
        *routes.routes(plane, metrics),
        *page.routes(plane),
    ]
    return application(found)
