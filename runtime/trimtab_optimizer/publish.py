"""Publish an artifact and, last of all, the tag by which its plan finds it.

The plan tag is a manifest of its own: the artifact's layers, with the result as annotation. A result that names the
artifact's digest cannot be part of what that digest covers.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

from trimtab_api.contract import canonical_json
from trimtab_api.group import ANNOTATION_RESULT
from trimtab_api.package import REPORT_FILE, SUMS_FILE
from trimtab_api.plan import tag_of
from trimtab_api.report import MeasuredMetric, OptimizationResult, Unoptimized
from trimtab_api.spec import Convert, ModelFormat, OptimizationPass, Target
from trimtab_optimizer.logs import say
from trimtab_optimizer.measuring.comparison import Details
from trimtab_optimizer.package import Model, share_folder
from trimtab_optimizer.progress import Records, run_passes
from trimtab_optimizer.report import write_report
from trimtab_optimizer.run import Run
from trimtab_optimizer.sums import write_sums

_OF_AN_ARTIFACT: Final = frozenset({REPORT_FILE, SUMS_FILE})  # a source may be one itself
_CONVERT: Final = (OptimizationPass(convert=Convert()),)
_SERVED_AS_IT_IS: Final[tuple[OptimizationPass, ...]] = ()
_SERVED_AS_THEY_ARE: Final = (ModelFormat.LITERT, ModelFormat.GENAI, ModelFormat.COLLECTION)


@dataclass(frozen=True, slots=True)
class Made:
    """What a plan led to. `details` is what the report says of the metrics; a search leaves `variants` and `search`."""

    model: Model
    records: Records
    metrics: tuple[MeasuredMetric, ...]
    details: Details
    variants: list[dict[str, Any]] | None = None
    search: str | None = None


def publish(run: Run, made: Made) -> OptimizationResult:
    """Push model and report as the artifact of the plan, and return the result that the plan tag carries."""
    key = run.plan.key(run.resolved)
    folder = run.scratch / "artifact"
    share_folder(made.model.folder, folder, _OF_AN_ARTIFACT)
    write_report(folder, run.plan, run.resolved, made.records, made.metrics, made.details, made.variants)
    write_sums(folder)
    digest = run.store.push(folder, run.repository, (tag_of(key, "artifact"),), {})
    result = OptimizationResult(
        artifact=f"{run.repository}@{digest}",
        plan=key,
        resolved=dict(run.resolved),
        passes=tuple(record.summary() for record in made.records),
        metrics=made.metrics,
        search=made.search,
        unoptimized=_publish_unoptimized(run) if run.plan.keep_unoptimized else None,
    )
    annotations = {ANNOTATION_RESULT: canonical_json(result.to_dict())}
    run.store.retag(run.repository, digest, (tag_of(key, "plan"),), annotations)
    say("published", artifact=result.artifact, plan=key)
    return result


def _publish_unoptimized(run: Run) -> Unoptimized:
    """Push the source merely converted. All plans that convert a source alike share it, and the first pass of most."""
    plan = run.plan.model_copy(update={"passes": _conversion(run), "search": None, "gate": ()})
    _, model, _ = run_passes(replace(run, plan=plan, scratch=run.scratch / "unoptimized"))
    tag = tag_of(plan.pass_key(len(plan.passes), run.resolved), "source")
    folder = run.scratch / "unoptimized-artifact"
    share_folder(model.folder, folder, _OF_AN_ARTIFACT)
    write_sums(folder)
    digest = run.store.push(folder, run.repository, (tag,), {})
    say("unoptimized published", digest=digest)
    return Unoptimized(artifact=f"{run.repository}@{digest}", size_bytes=model.size_bytes())


def _conversion(run: Run) -> tuple[OptimizationPass, ...]:
    """Return what makes the source a model that is served in the same way."""
    if run.plan.for_engine or run.source.package.format in _SERVED_AS_THEY_ARE:
        return _SERVED_AS_IT_IS
    is_generative = any(item.convert and item.convert.to is Target.GENAI for item in run.plan.passes)
    return (OptimizationPass(convert=Convert(to=Target.GENAI)),) if is_generative else _CONVERT
