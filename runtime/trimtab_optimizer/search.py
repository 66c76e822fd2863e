"""Choose among the named passes of a plan by trying variants, with the limits of the gate.

`tryInOrder` takes the first variant that passes. `auto` tries every named pass alone, then those together that cost no
more quality than the gate allows, and takes the smallest or fastest that passes. What variants share is run once, as
each pass is kept in the registry under the plan up to there.
"""

import itertools
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from trimtab_api.errors import PassFailed, UserError
from trimtab_api.gate import Gate, judge
from trimtab_api.plan import Plan
from trimtab_api.report import METRIC_ACCURACY, METRIC_LATENCY_P95, METRIC_SIZE, MeasuredMetric
from trimtab_api.spec import Auto, Evaluation, GateMetric, OptimizationPass
from trimtab_optimizer.evaluate import Figures, compare, figures_of
from trimtab_optimizer.logs import say
from trimtab_optimizer.package import Model
from trimtab_optimizer.passes import check_order
from trimtab_optimizer.progress import Records, run_passes
from trimtab_optimizer.run import Run

_COSTS: Final = frozenset({METRIC_SIZE, METRIC_LATENCY_P95})
_OBJECTIVES: Final = {"smallest": METRIC_SIZE, "fastest": METRIC_LATENCY_P95}

Variant = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """One variant, with what came of it. `quality` is the gate without size and latency; more passes can mend those."""

    variant: Variant
    scratch: Path
    records: Records
    model: Model
    figures: Figures
    metrics: tuple[MeasuredMetric, ...]
    gate: Gate
    quality: Gate

    def value(self, name: str, absent: float = math.inf) -> float:
        """Return a figure; by default one that could not be computed is above all others."""
        found = next((item.value for item in self.metrics if item.name == name), None)
        return absent if found is None else found


@dataclass(frozen=True, slots=True)
class Found:
    """The trial that was taken, and the whole search for the report, and in a sentence."""

    taken: Trial
    report: list[dict[str, Any]]
    sentence: str


def search(run: Run, source: Figures) -> Found:
    """Try variants of a plan until one can be taken. Raises the last error where none could be made."""
    trials: list[Trial] = []
    failures: dict[Variant, UserError] = {}
    for number, variant in enumerate(_variants(run.plan, trials), start=1):
        try:
            trials.append(_try(run, number, variant, source))
            _forget_others(run.plan, trials)
        except UserError as error:
            say("variant failed", variant=variant, cause=str(error))
            failures[variant] = error
        if _in_order(run.plan) and trials and trials[-1].gate.passed:
            break
    if not trials:
        raise list(failures.values())[-1] if failures else PassFailed("search: there was no variant to try")
    taken = _choose(run.plan, trials)
    return Found(taken, _report(trials, failures, taken), _sentence(run.plan, trials, failures, taken))


def check_variants(plan: Plan) -> None:
    """Refuse variants whose passes cannot follow each other, before any is tried. Raises PassFailed."""
    for variant in _in_order(plan) or ():
        try:
            check_order(_plan_of(plan, variant))
        except PassFailed as error:
            raise PassFailed(f"search: variant {_name(variant)}: {error}") from error


def _variants(plan: Plan, trials: Sequence[Trial]) -> Iterator[Variant]:
    """Yield variants; for `auto`, those that follow from the trials so far."""
    order = _in_order(plan)
    if order is None:
        yield from itertools.islice(_combinations(plan, trials), _auto(plan).max_trials)
    else:
        yield from order


def _in_order(plan: Plan) -> tuple[Variant, ...] | None:
    """Return the variants of `tryInOrder`, or None where the search is to find its own."""
    return plan.search.try_in_order if plan.search else None


def _auto(plan: Plan) -> Auto:
    return (plan.search and plan.search.auto) or Auto()


def _combinations(plan: Plan, trials: Sequence[Trial]) -> Iterator[Variant]:
    named = {item.name: item for item in plan.passes if item.name}
    for name in named:
        if _is_possible(plan, (name,)):
            yield (name,)
    objective = _objective(plan)
    alone = {trial.variant[0]: trial.value(objective) for trial in trials if trial.quality.passed is not False}
    for size in range(2, len(alone) + 1):
        groups = [g for g in itertools.combinations(alone, size) if len({named[name].kind for name in g}) == size]
        for group in sorted(groups, key=lambda g: sum(alone[name] for name in g)):
            variant = tuple(name for name in named if name in group)
            if _is_possible(plan, variant):
                yield variant


def _is_possible(plan: Plan, variant: Variant) -> bool:
    try:
        check_order(_plan_of(plan, variant))
    except PassFailed:
        return False
    return True


def _plan_of(plan: Plan, variant: Variant) -> Plan:
    passes: tuple[OptimizationPass, ...] = tuple(
        item for item in plan.passes if item.name is None or item.name in variant
    )
    return plan.model_copy(update={"passes": passes, "search": None, "gate": ()})


def _try(run: Run, number: int, variant: Variant, source: Figures) -> Trial:
    say("variant", number=number, passes=variant)
    scratch = run.scratch / f"variant-{number}"
    part = replace(run, plan=_plan_of(run.plan, variant), scratch=scratch)
    records, model, figures = run_passes(part)
    metrics = compare(source, figures)
    quality = tuple(limit for limit in run.plan.gate if limit.name not in _COSTS)
    gates = (_judge(run, limits, metrics) for limits in (run.plan.gate, quality))
    trial = Trial(variant, scratch, records, model, figures, metrics, *gates)
    say("variant measured", passes=variant, passed=trial.gate.passed, **figures_of(source, figures))
    return trial


def _forget_others(plan: Plan, trials: Sequence[Trial]) -> None:
    """Free the disk of models that are not taken as things stand; the registry has them."""
    taken = _choose(plan, trials)
    for trial in trials:
        if trial is not taken:  # its scratch, and not its model: without a pass that is the source
            shutil.rmtree(trial.scratch, ignore_errors=True)


def _judge(run: Run, limits: tuple[GateMetric, ...], metrics: tuple[MeasuredMetric, ...]) -> Gate:
    return judge(Evaluation(data=run.plan.evaluation_data or "", metrics=limits), metrics)


def _objective(plan: Plan) -> str:
    return _OBJECTIVES[_auto(plan).objective]


def _choose(plan: Plan, trials: Sequence[Trial]) -> Trial:
    """Return the trial to take; where none passes the one that missed the fewest limits, for the gate to block."""
    passing = [trial for trial in trials if trial.gate.passed]
    objective = _objective(plan)
    if _in_order(plan) is not None:
        return passing[0] if passing else trials[-1]
    if passing:
        return min(passing, key=lambda trial: trial.value(objective))
    return min(trials, key=lambda trial: (_missed(trial), trial.value(objective)))


def _missed(trial: Trial) -> int:
    return sum(row.passed is not True for row in trial.gate.rows)


def _report(trials: Sequence[Trial], failures: dict[Variant, UserError], taken: Trial) -> list[dict[str, Any]]:
    """Return one row for each variant. On the front are those that none of the others beats in every way."""
    rows: list[dict[str, Any]] = [
        {
            "passes": list(trial.variant),
            "passed": trial.gate.passed,
            "taken": trial is taken,
            "onFront": not any(_beats(other, trial) for other in trials),
            "metrics": {item.name: item.value for item in trial.metrics},
            "missed": trial.gate.message or None,
        }
        for trial in trials
    ]
    return rows + [{"passes": list(variant), "failed": str(error)} for variant, error in failures.items()]


def _beats(one: Trial, other: Trial) -> bool:
    """Say whether a trial is at least as good as another in size, speed and accuracy, and better in one of them."""
    mine, others = (
        (-t.value(METRIC_SIZE), -t.value(METRIC_LATENCY_P95), t.value(METRIC_ACCURACY, absent=0)) for t in (one, other)
    )
    return mine != others and all(a >= b for a, b in zip(mine, others, strict=True))


def _sentence(plan: Plan, trials: Sequence[Trial], failures: dict[Variant, UserError], taken: Trial) -> str:
    passed = sum(trial.gate.passed is True for trial in trials)
    best = "first" if _in_order(plan) is not None else _auto(plan).objective
    why = f"the {best} that passed" if taken.gate.passed else "none passed"
    tried = f"{len(trials) + len(failures)} tried, {passed} passed"
    return f"{_name(taken.variant)}: {why} ({tried})"


def _name(variant: Variant) -> str:
    return " + ".join(variant) or "no named pass"
