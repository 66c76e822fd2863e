"""What a pass promises against what it achieved: `gain` in its notes is speed or storage.

The check stands before the result of a pass is stored. So a pass that fails is made again when it is asked for again,
and one that was stored with a warning keeps it for whoever finds it later.
"""

from typing import Final

from trimtab_api.errors import PassFailed
from trimtab_api.spec import NoEffect
from trimtab_optimizer.measuring.latency import latency_ratio
from trimtab_optimizer.memory import lacks_memory
from trimtab_optimizer.package import Model
from trimtab_optimizer.report import PassRecord
from trimtab_optimizer.run import Run

_NOISE: Final = 1.1  # a latency that differs by less is the same


def with_effect(run: Run, record: PassRecord, before: Model, after: Model) -> PassRecord:
    """Return the record of a pass with the warning that it deserves. Raises PassFailed where the plan wants that."""
    record = record.model_copy(update={"warning": _warning(run, record, before, after)})
    refuse_without_effect(run, record)
    return record


def refuse_without_effect(run: Run, *records: PassRecord) -> None:
    """Raise PassFailed for a pass without its effect, also a stored one, where the plan wants that."""
    for record in records:
        if record.warning and run.plan.on_no_effect is NoEffect.FAIL:
            raise PassFailed(record.warning)


def _warning(run: Run, record: PassRecord, before: Model, after: Model) -> str | None:
    gain = record.notes.get("gain")
    if gain == "storage" and record.size_bytes >= record.size_bytes_before:
        sizes = f"{record.size_bytes_before} bytes before {record.name}, {record.size_bytes} after"
        return f"the model became no smaller, {sizes}: raise what the pass takes away, or leave it out"
    return _slower(run, record, before, after) if gain == "speed" else None


def _slower(run: Run, record: PassRecord, before: Model, after: Model) -> str | None:
    """Say that a pass for speed made a row slower: some kernels are in fewer bits."""
    if lacks_memory(before, after):
        return None
    ratio = latency_ratio(before, after, run.evaluation, run.plan.source.allow_pickle, run.plan.seed)
    if ratio <= _NOISE:
        return None
    slower = f"a row takes {ratio:.2g} times as long as before {record.name}"
    return f"{slower}: try another mode, dtype or blockSize, or leave the pass out"
