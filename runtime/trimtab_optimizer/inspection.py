"""What report.json tells of each pass beyond what a gate decides by."""

from trimtab_optimizer.evaluate import Figures, figures_of
from trimtab_optimizer.measuring.operators import count_operators
from trimtab_optimizer.package import Model
from trimtab_optimizer.report import PassRecord
from trimtab_optimizer.run import Run


def inspected(run: Run, record: PassRecord, before: Model, after: Model, figures: Figures) -> PassRecord:
    """Return the record of a pass with all that can be measured of its result."""
    measured = {
        "metrics": figures_of(run.baseline or figures, figures),
        "operators": count_operators(after),
    }
    return record.model_copy(update=measured)
