"""Which revision a spec means, which ones may come back without steps, and which ones history no longer holds."""

from dataclasses import dataclass
from datetime import datetime

from trimtab_api.contract import digest_of
from trimtab_api.group import ANNOTATION_RETRY
from trimtab_api.revision import identity_of, rejection_key, revision_name
from trimtab_api.spec import ModelDeploymentSpec
from trimtab_operator.core.observed import Observed, Parent, Revision


@dataclass(frozen=True, slots=True)
class Wanted:
    """The revision that a spec means, known before anything was made.

    `fallback` is the same source unoptimized: another revision, since it serves other bytes.
    """

    name: str
    identity: str
    fallback_name: str
    fallback_identity: str
    rejection_key: str
    retry: str


def wanted_by(spec: ModelDeploymentSpec, parent: Parent) -> Wanted:
    """Return what the spec means, by name."""
    identity = identity_of(spec)
    fallback = digest_of([identity, "unoptimized"])
    retry = parent.annotations.get(ANNOTATION_RETRY, "")
    return Wanted(
        name=revision_name(parent.name, identity),
        identity=identity,
        fallback_name=revision_name(parent.name, fallback),
        fallback_identity=fallback,
        rejection_key=rejection_key(spec, retry),
        retry=retry,
    )


def stable_name(observed: Observed) -> str | None:
    """Return the revision that serves. The Service says so; status is asked only where the Service is gone."""
    traffic = observed.traffic
    name = traffic.stable if traffic else observed.parent.status.get("stableRevision")
    return name if name and observed.revision(name) else None


def comes_back_at_once(revision: Revision, revisions: tuple[Revision, ...], stable: str | None, window: int) -> bool:
    """Tell whether a revision served lately enough to skip the steps: among the `window` last before the stable one."""
    served = [item for item in revisions if item.stable_since and item.name != stable]
    served.sort(key=lambda item: (item.stable_since, item.name), reverse=True)
    return revision.name in [item.name for item in served[:window]]


def next_number(revisions: tuple[Revision, ...]) -> int:
    """Return the number of a revision made now."""
    return max((item.spec.number for item in revisions), default=0) + 1


def beyond_history(revisions: tuple[Revision, ...], needed: frozenset[str], limit: int) -> tuple[Revision, ...]:
    """Return the revisions to delete: not needed now, and older than the `limit` newest others."""
    others = [item for item in revisions if item.name not in needed]
    others.sort(key=lambda item: (_last_used(item), item.name), reverse=True)
    return tuple(others[limit:])


def _last_used(revision: Revision) -> datetime:
    return max(moment for moment in (revision.created, revision.stable_since, revision.retired_at) if moment)
