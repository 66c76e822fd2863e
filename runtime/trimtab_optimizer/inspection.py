"""What report.json tells of each pass beyond what a gate decides by. What cannot be measured fails no pass."""

from typing import Any

from trimtab_api.report import METRIC_MEMORY
from trimtab_optimizer.evaluate import Figures, figures_of
from trimtab_optimizer.measuring.latency import rows_to_time
from trimtab_optimizer.measuring.layers import worst_layers
from trimtab_optimizer.measuring.memory import peak_memory
from trimtab_optimizer.measuring.operators import count_operators
from trimtab_optimizer.memory import unwritten, why_not_run
from trimtab_optimizer.package import Model
from trimtab_optimizer.report import PassRecord
from trimtab_optimizer.run import Run


def inspected(run: Run, record: PassRecord, before: Model, after: Model, figures: Figures) -> PassRecord:
    """Return the record of a pass with all that can be measured of its result."""
    rows = rows_to_time(run.evaluation, after.package, run.plan.seed)
    memory = why_not_run(after) or peak_memory(after, rows, run.plan.source.allow_pickle, run.scratch)
    layers = unwritten(before, after) or worst_layers(before, after, rows)
    absent = {name: why for name, why in ((METRIC_MEMORY, memory), ("worstLayers", layers)) if isinstance(why, str)}
    measured: dict[str, Any] = {
        "metrics": figures_of(run.baseline or figures, figures),
        "operators": count_operators(after),
        "worst_layers": None if isinstance(layers, str) else layers,
        "absent": absent or None,
    }
    if isinstance(memory, int):
        measured["metrics"][METRIC_MEMORY] = memory
    return record.model_copy(update=measured)
