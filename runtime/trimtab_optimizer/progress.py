"""Run the passes of a plan, starting after the last one the registry holds.

Each finished pass is pushed at once under a tag made of the plan up to there, with the records of the passes so far as
annotation. So a Job that is killed goes on after its last finished pass, and so does another plan with the same start.
"""

import json
import random
import shutil
import time
from typing import Final

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from trimtab_api.contract import canonical_json
from trimtab_api.errors import DigestMismatch, InvalidPackage, SourceNotFound
from trimtab_api.group import GROUP
from trimtab_api.plan import tag_of
from trimtab_api.spec import OptimizationPass
from trimtab_optimizer.chains import chain_of, run_chain
from trimtab_optimizer.checkpoints import checkpoints_of
from trimtab_optimizer.effects import refuse_without_effect, with_effect
from trimtab_optimizer.evaluate import Figures
from trimtab_optimizer.inspection import inspected
from trimtab_optimizer.logs import say
from trimtab_optimizer.memory import check_memory
from trimtab_optimizer.package import Model, load_package
from trimtab_optimizer.passes import PASSES
from trimtab_optimizer.passes.contract import Outcome, Workplace
from trimtab_optimizer.passes.reweighing import settled
from trimtab_optimizer.report import PassRecord
from trimtab_optimizer.run import Run
from trimtab_optimizer.store import repository_uri

_ANNOTATION_PASSES: Final = f"{GROUP}.passes"

Records = tuple[PassRecord, ...]


def run_passes(run: Run) -> tuple[Records, Model, Figures]:
    """Return the records of all passes, the model that the last one gave, and what was measured of it."""
    run.scratch.mkdir(parents=True, exist_ok=True)
    records, model = _resume(run)
    refuse_without_effect(run, *records)
    figures = run.measure(model) if records or run.baseline is None else run.baseline
    while len(records) < len(run.plan.passes):
        for record, after in _run_next(run, len(records) + 1, model):
            before, model = model, after
            record = with_effect(run, record, before, model)
            records = (*records, record)
            tag, notes = _tag(run, len(records)), _annotations(records)
            digest = run.store.push(model.folder, run.repository, (tag,), notes, is_new=True)
            say("pass finished", number=len(records), name=record.name, seconds=record.seconds, digest=digest)
            figures = run.measure(model)
            records = (*records[:-1], inspected(run, record, before, model, figures))
    if model.waiting:
        model = _settled(run, len(records), model)
        figures = run.measure(model)
    return records, model, figures


def _resume(run: Run) -> tuple[Records, Model]:
    """Return the longest start of the plan that the registry holds, and its model; at worst none, and the source."""
    for count in range(len(run.plan.passes), 0, -1):
        found = run.store.find(run.repository, _tag(run, count))
        records = _read_records(found[1]) if found else None
        model = _pull(run, count, found[0]) if found and records and len(records) == count else None
        if model and records:
            say("passes reused", count=count)
            return tuple(record.model_copy(update={"state": "Reused"}) for record in records), model
    return (), run.source


def _pull(run: Run, count: int, digest: str) -> Model | None:
    """Return the model of a finished pass. What is damaged or half removed counts as not there, and is made again."""
    folder = run.scratch / f"pass-{count}"
    try:
        run.store.pull(repository_uri(run.repository, digest=digest), folder)
        return load_package(folder)
    except (SourceNotFound, DigestMismatch, InvalidPackage) as error:
        say("pass not usable", count=count, digest=digest, cause=str(error))
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _run_next(run: Run, number: int, model: Model) -> list[tuple[PassRecord, Model]]:
    """Run the pass with a number, and those after it that read the weights together with it."""
    left = run.plan.passes[number - 1 :]
    chain = () if run.evaluation else chain_of(left, model, run.plan.seed)
    if not chain and model.waiting:
        model = _settled(run, number - 1, model)
    items, start = chain or left[:1], time.monotonic()
    works = [_begin(run, number + place, item, model) for place, item in enumerate(items)]
    _seed_everything(run.plan.seed)  # for each pass anew: it may be the first that is run here, or a later one
    outcomes = run_chain(items, model, works) if chain else [PASSES[items[0].kind].run(items[0], model, works[0])]
    seconds = [0.0] * (len(items) - 1) + [round(time.monotonic() - start, 3)]  # those of a chain are the last one's
    for work in works:
        shutil.rmtree(work.scratch)
    models = [outcome.model for outcome in outcomes]
    sizes = [item.size_bytes() for item in (model, *models)]
    records = [
        _record(run, item, outcome, before, took)
        for item, outcome, before, took in zip(items, outcomes, sizes[:-1], seconds, strict=True)
    ]
    return list(zip(records, models, strict=True))


def _begin(run: Run, number: int, item: OptimizationPass, model: Model) -> Workplace:
    """Return the place of a pass. Raises InsufficientMemory."""
    say("pass started", number=number, name=item.kind)
    step = PASSES[item.kind]
    check_memory(item.kind, model.size_bytes(), step.memory(item, model), beside=step.beside(item))
    return run.workplace(f"pass-{number}", item, checkpoints_of(run, number), _tag(run, number))


def _record(run: Run, item: OptimizationPass, outcome: Outcome, before: int, seconds: float) -> PassRecord:
    return PassRecord(
        name=item.kind,
        state="Succeeded",
        parameters=item.to_dict()[item.kind],
        seconds=seconds,
        size_bytes=outcome.model.size_bytes(),
        size_bytes_before=before,
        seed=run.plan.seed,
        notes=outcome.notes,
    )


def _settled(run: Run, number: int, model: Model) -> Model:
    """Return a model whose weights wait for edits with these made, where no pass reads them so."""
    name, item = f"settled-{number}", run.plan.passes[number - 1]
    work = run.workplace(name, item, checkpoints_of(run, number), f"{_tag(run, number)}-settled")
    made = settled(model, work)
    shutil.rmtree(work.scratch)
    return made


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _tag(run: Run, count: int) -> str:
    return tag_of(run.plan.pass_key(count, run.resolved), "pass")


def _annotations(records: Records) -> dict[str, str]:
    return {_ANNOTATION_PASSES: canonical_json([record.stored().to_dict() for record in records])}


def _read_records(annotations: dict[str, str]) -> Records | None:
    """Return the stored records; what cannot be read counts as not there, and is made again."""
    try:
        return TypeAdapter(Records).validate_python(json.loads(annotations[_ANNOTATION_PASSES]))
    except (KeyError, ValueError, ValidationError):
        return None
