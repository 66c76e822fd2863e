"""ModelRevision: an immutable spec, and marks in annotations that follow what happens to it."""

from dataclasses import dataclass
from datetime import datetime

from trimtab_api.contract import canonical_json
from trimtab_api.group import ANNOTATION_REJECTED, ANNOTATION_RETIRED_AT, ANNOTATION_STABLE_SINCE, API_VERSION
from trimtab_api.group import MODEL_REVISION as KIND
from trimtab_api.revision import ModelRevisionSpec, Rejection
from trimtab_operator.core.observed import Manifest, Parent, Revision
from trimtab_operator.core.times import write_time
from trimtab_operator.resources.metadata import labels_of, manifest, metadata, owned_by_deployment


@dataclass(frozen=True, slots=True)
class Marks:
    """When the revision was promoted, when it was left, and why it may not come in."""

    stable_since: datetime | None = None
    retired_at: datetime | None = None
    rejection: Rejection | None = None


def new_model_revision(parent: Parent, name: str, spec: ModelRevisionSpec) -> Manifest:
    """Return a revision that was just made."""
    meta = metadata(parent, name, labels_of(parent.name, name), owned_by_deployment(parent))
    return manifest(API_VERSION, KIND, meta, spec.to_dict())


def model_revision(parent: Parent, revision: Revision, marks: Marks) -> Manifest:
    """Return an existing revision with its marks."""
    built = new_model_revision(parent, revision.name, revision.spec)
    annotations = _annotations(marks)
    if annotations:
        built["metadata"]["annotations"] = annotations
    return built


def _annotations(marks: Marks) -> dict[str, str]:
    found = {}
    if marks.stable_since:
        found[ANNOTATION_STABLE_SINCE] = write_time(marks.stable_since)
    if marks.retired_at:
        found[ANNOTATION_RETIRED_AT] = write_time(marks.retired_at)
    if marks.rejection:
        found[ANNOTATION_REJECTED] = canonical_json(marks.rejection.to_dict())
    return found
