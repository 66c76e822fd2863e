"""From the folders of models to what callers reach: each is loaded, tried, and gets its own batcher and metrics."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from trimtab_api.errors import InvalidPackage
from trimtab_runtime.config import RuntimeConfig
from trimtab_runtime.dataplane import DataPlane
from trimtab_runtime.engine.batcher import Batcher, Limits
from trimtab_runtime.engine.pieces import piece_rows
from trimtab_runtime.engine.trial import learn
from trimtab_runtime.engine.turns import Turns
from trimtab_runtime.logs import say
from trimtab_runtime.model.cpus import available_cpus
from trimtab_runtime.model.manifest import Offered
from trimtab_runtime.model.session import Model, load_model
from trimtab_runtime.model.sums import verified
from trimtab_runtime.server.endpoints import Endpoint
from trimtab_runtime.server.metrics import ServerMetrics
from trimtab_runtime.server.place import Place
from trimtab_runtime.server.shadowing import Shadowing
from trimtab_runtime.server.tracing import Tracing

_QUEUED_BYTES: Final = 256 << 20  # of all models together


def load_endpoints(
    config: RuntimeConfig,
    models: Sequence[Offered],
    place: Place,
    tracing: Tracing | None,
    shadowing: Shadowing | None,
) -> list[Endpoint]:
    """Load models, and learn how each runs best.

    Raises InvalidPackage: of several, one that cannot be served keeps all from being served, as what served before
    goes on.
    """
    loaded = _loaded(config, [model.folder for model in models])
    turns = Turns()
    endpoints = []
    for model, tallies in zip(models, place.tallies, strict=True):
        version = model.version if model.has_own_version else None
        metrics = ServerMetrics(model.name, config.revision, tallies, place.process, tracing, version)
        batcher = _batcher(config, model, loaded[model.folder], metrics, turns, _QUEUED_BYTES // len(models))
        witness = shadowing.witness(model.name, version, metrics) if shadowing else None
        plane = DataPlane(model.name, model.version, loaded[model.folder], batcher, witness)
        endpoints.append(Endpoint(plane, metrics))
    return endpoints


def _loaded(config: RuntimeConfig, folders: Sequence[Path]) -> dict[Path, Model]:
    threads = config.threads or max(1, available_cpus() // config.workers)
    if config.model_dir in folders:
        return {config.model_dir: load_model(config.model_dir, threads)}
    with verified(config.model_dir):
        return {folder: _load_one(config.model_dir, folder, threads) for folder in folders}


def _load_one(collection: Path, folder: Path, threads: int) -> Model:
    try:
        return load_model(folder, threads)
    except InvalidPackage as error:
        raise InvalidPackage(f"the model in {folder.relative_to(collection)}: {error}") from error


def _batcher(
    config: RuntimeConfig, offered: Offered, model: Model, metrics: ServerMetrics, turns: Turns, queued_bytes: int
) -> Batcher:
    """Return what feeds the model in the way that it runs best, as a trial tells."""
    has_spare_cpu = available_cpus() > config.workers
    learned = learn(model.run, model.make_rows, config.max_batch_size, config.batch_tolerance, has_spare_cpu)
    metrics.learned(learned)
    one_shape = all(-1 not in item.shape[1:] for item in model.package.inputs)
    # Rows of any length may take any time: those of the trial say nothing of the longest.
    in_loop = learned.in_loop and one_shape if config.executor == "auto" else config.executor == "loop"
    lone_in_loop = learned.lone_in_loop and one_shape and config.executor == "auto" and not config.max_delay_seconds
    say(
        "learned",
        model=offered.name,
        version=offered.version,
        batchRows=learned.batch_rows,
        runSeconds=round(learned.costs.of(learned.batch_rows), 6),
        inLoop=in_loop,
        loneInLoop=in_loop or lone_in_loop,
        batchDifference=learned.difference if math.isfinite(learned.difference) else None,
    )
    limits = Limits(learned.batch_rows, config.max_delay_seconds, config.max_wait_seconds, queued_bytes=queued_bytes)
    mixes = learned.is_safe and config.max_batch_size > 1
    pieces = piece_rows(learned.costs, learned.batch_rows, config.max_batch_size, in_loop) if mixes else None
    return Batcher(
        model.run, limits, learned.costs, metrics.observe_run, in_loop, one_shape, pieces, turns, lone_in_loop
    )
