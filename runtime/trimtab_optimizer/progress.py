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
from trimtab_optimizer.checkpoints import checkpoints_of
from trimtab_optimizer.effects import refuse_without_effect, with_effect
from trimtab_optimizer.evaluate import Figures
from trimtab_optimizer.inspection import inspected
from trimtab_optimizer.logs import say
from trimtab_optimizer.memory import check_memory
from trimtab_optimizer.package import Model, load_package
from trimtab_optimizer.passes import PASSES
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
    for number in range(len(records) + 1, len(run.plan.passes) + 1):
        before = model
        record, model = _run_pass(run, number, before)
        record = with_effect(run, record, before, model)
        records = (*records, record)
        digest = run.store.push(model.folder, run.repository, (_tag(run, number),), _annotations(records))
        say("pass finished", number=number, name=record.name, seconds=record.seconds, digest=digest)
        figures = run.measure(model)
        records = (*records[:-1], inspected(run, record, before, model, figures))
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


def _run_pass(run: Run, number: int, model: Model) -> tuple[PassRecord, Model]:
    item = run.plan.passes[number - 1]
    say("pass started", number=number, name=item.kind)
    step = PASSES[item.kind]
    check_memory(item.kind, model.size_bytes(), step.memory(item, model), beside=step.beside(item))
    work = run.workplace(f"pass-{number}", item, checkpoints_of(run, number), _tag(run, number))
    before, start = model.size_bytes(), time.monotonic()
    _seed_everything(run.plan.seed)  # for each pass anew: it may be the first that is run here, or a later one
    outcome = PASSES[item.kind].run(item, model, work)
    shutil.rmtree(work.scratch)
    record = PassRecord(
        name=item.kind,
        state="Succeeded",
        parameters=item.to_dict()[item.kind],
        seconds=round(time.monotonic() - start, 3),
        size_bytes=outcome.model.size_bytes(),
        size_bytes_before=before,
        seed=run.plan.seed,
        notes=outcome.notes,
    )
    return record, outcome.model


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
