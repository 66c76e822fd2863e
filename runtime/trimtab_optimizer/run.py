"""One run of a plan: what every step needs, and nothing that changes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trimtab_api.plan import Plan
from trimtab_api.spec import OptimizationPass
from trimtab_optimizer.data import Dataset
from trimtab_optimizer.evaluate import Figures, measure
from trimtab_optimizer.measuring.own import Metric
from trimtab_optimizer.package import Model
from trimtab_optimizer.passes.contract import Checkpoints, Workplace
from trimtab_optimizer.store import Store


@dataclass(frozen=True, slots=True)
class Run:
    """A plan with its digests, its inputs on disk and in memory, and the place for its results."""

    plan: Plan
    resolved: Mapping[str, str]
    store: Store
    repository: str
    scratch: Path
    source: Model
    packages: Mapping[str, Model] = field(default_factory=dict)
    data: Mapping[str, Dataset] = field(default_factory=dict)
    metrics: Mapping[str, Metric] = field(default_factory=dict)  # of the source's own code
    baseline: Figures | None = None  # what was measured of the source
    unfinished: Path | None = None  # outlives this process

    @property
    def evaluation(self) -> Dataset | None:
        """Return the evaluation data, if the plan names any."""
        return self.data[self.plan.evaluation_data] if self.plan.evaluation_data else None

    def measure(self, model: Model) -> Figures:
        """Measure a model on the evaluation data."""
        return measure(model, self.evaluation, self.plan.source.allow_pickle, self.plan.seed, self.metrics)

    def workplace(self, name: str, item: OptimizationPass, checkpoints: Checkpoints, tag: str) -> Workplace:
        """Return new folders for the pass with a tag, and with what it reads."""
        scratch = self.scratch / f"{name}-scratch"
        scratch.mkdir(parents=True)
        return Workplace(
            target=self.scratch / name,
            scratch=scratch,
            seed=self.plan.seed,
            allow_pickle=self.plan.source.allow_pickle,
            source=self.source,
            packages=self.packages,
            data=self.data[item.data_uri] if item.data_uri else None,
            evaluation=self.evaluation,
            checkpoints=checkpoints,
            unfinished=self.unfinished / tag if self.unfinished else None,
        )
