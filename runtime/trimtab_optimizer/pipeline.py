"""From a plan that nobody carried out yet (known.py) to its published artifact.

    check the order of passes -> pull and check all input -> measure the source
    -> longest start of the passes that the registry holds -> the other passes, each pushed when done and measured
    -> report.json -> artifact -> plan tag

The plan tag comes last: who finds it finds all the rest.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace

from trimtab_api.report import OptimizationResult
from trimtab_optimizer.config import OptimizerConfig
from trimtab_optimizer.data import load_data
from trimtab_optimizer.evaluate import compare, explain, figures_of
from trimtab_optimizer.importers import import_beside, import_source
from trimtab_optimizer.logs import quiet_libraries, say
from trimtab_optimizer.measuring.own import load_metrics
from trimtab_optimizer.passes import check_order
from trimtab_optimizer.progress import run_passes
from trimtab_optimizer.publish import Made, publish
from trimtab_optimizer.run import Run
from trimtab_optimizer.search import check_variants, search
from trimtab_optimizer.store import Store


def make_artifact(config: OptimizerConfig, store: Store, resolved: Mapping[str, str]) -> OptimizationResult:
    """Make and publish the artifact of a plan. Raises errors of trimtab_api.errors."""
    quiet_libraries()
    if config.plan.search:
        check_variants(config.plan)
        return _search(_prepare(config, store, resolved))
    check_order(config.plan)
    run = _prepare(config, store, resolved)
    source = run.measure(run.source)
    run = replace(run, baseline=source)
    records, model, result = run_passes(run)
    say("measured", **figures_of(source, result))
    return publish(run, Made(model, records, compare(source, result), explain(source, result)))


def _search(run: Run) -> OptimizationResult:
    source = run.measure(run.source)
    found = search(replace(run, baseline=source), source)
    say("searched", taken=found.sentence)
    taken = found.taken
    details = explain(source, taken.figures)
    return publish(run, Made(taken.model, taken.records, taken.metrics, details, found.report, found.sentence))


def _prepare(config: OptimizerConfig, store: Store, resolved: Mapping[str, str]) -> Run:
    """Pull and check everything a plan reads, so that bad input fails before the first long pass."""
    plan, scratch = config.plan, config.scratch / "run"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    folders = {uri: scratch / f"pulled-{number}" for number, uri in enumerate(plan.uris())}
    for uri, folder in folders.items():
        store.pull(_pinned(uri, resolved[uri]), folder)
        say("pulled", uri=uri, digest=resolved[uri])
    source = import_source(plan.source, folders[plan.source.uri], scratch / "source")
    packages = {
        uri: import_beside(folders[uri], uri, scratch / f"beside-{number}")
        for number, uri in enumerate(plan.package_uris())
    }
    data = {
        uri: load_data(folders[uri], source.package, evaluation=uri == plan.evaluation_data) for uri in plan.data_uris()
    }
    place = (store, config.artifact_repository, scratch)
    unfinished = config.scratch / "unfinished"
    return Run(plan, resolved, *place, source, packages, data, load_metrics(source), unfinished=unfinished)


def _pinned(uri: str, digest: str) -> str:
    """Return a URI that names what was resolved, even if its tag has moved since."""
    return uri if "@" in uri else f"{uri}@{digest}"
