"""What tests ask of a model that a pass made."""

from trimtab_optimizer.data import Dataset
from trimtab_optimizer.evaluate import measure
from trimtab_optimizer.package import Model


def accuracy(model: Model, data: Dataset) -> float:
    """Return the share of rows that a model gets right."""
    found = measure(model, data, False, 0).answers.scores["accuracy"]
    assert found is not None
    return found
