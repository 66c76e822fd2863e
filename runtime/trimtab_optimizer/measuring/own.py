"""A package's own metrics: code of the package that turns all answers, and the labels, into one number.

The code runs in this process, as the code that builds the module does. It is taken from the source: a conversion leaves
all code behind, and every model of a plan is measured alike.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab_api.errors import InvalidPackage
from trimtab_api.package import ModelPackage
from trimtab_optimizer.importers.code import find_callable, importable
from trimtab_optimizer.labels import Labels
from trimtab_optimizer.measuring.answers import Answers, scored
from trimtab_optimizer.measuring.meters import Outputs
from trimtab_optimizer.package import Model

Metric = Callable[[dict[str, NDArray[Any]], Labels | None], float]


def load_metrics(source: Model) -> dict[str, Metric]:
    """Return the metrics that model.yaml names. Raises InvalidPackage for one that cannot be found."""
    named = source.package.metrics or {}
    with importable(source.folder):
        found = {name: find_callable(source.folder, place, f"metric {name}") for name, place in named.items()}
    return {name: _guarded(name, metric, source) for name, metric in found.items()}


class OwnMetrics:
    """Keeps all answers, since a metric of a package sees the whole data set at once."""

    def __init__(self, metrics: Mapping[str, Metric], package: ModelPackage) -> None:
        self._metrics, self._names = metrics, [tensor.name for tensor in package.outputs]
        self._outputs: list[Outputs] = []
        self._labels: list[Labels] = []

    def add(self, outputs: Outputs, labels: Labels | None) -> None:
        self._outputs.append(outputs)
        self._labels += [] if labels is None else [labels]

    def read(self) -> Answers:
        labels = np.concatenate(self._labels) if self._labels else None
        arrays = [np.concatenate(parts) for parts in zip(*self._outputs, strict=True)]
        outputs = dict(zip(self._names, arrays, strict=True))
        return scored({name: metric(outputs, labels) for name, metric in self._metrics.items()})


def _guarded(name: str, metric: Callable[..., object], source: Model) -> Metric:
    """Return a metric that can be called later, and gives a number or raises InvalidPackage."""

    def call(outputs: dict[str, NDArray[Any]], labels: Labels | None) -> float:
        try:
            with importable(source.folder):
                return float(metric(dict(outputs), labels))  # type: ignore[arg-type]
        except MemoryError:
            raise
        except (Exception, SystemExit) as error:
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
            mend = "it gets (outputs by name, labels or None) and returns a number"
            raise InvalidPackage(f"metric {name} raised {said}; {mend}") from error

    return call
