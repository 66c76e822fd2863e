"""Ask the registry whether a plan was carried out before; without torch, so that a known plan is answered at once."""

from collections.abc import Mapping

from pydantic import ValidationError

from trimtab_api.errors import UserError
from trimtab_api.group import ANNOTATION_RESULT
from trimtab_api.plan import Plan, tag_of
from trimtab_api.report import OptimizationResult
from trimtab_optimizer.store import Store


def resolve(store: Store, plan: Plan) -> dict[str, str]:
    """Return the digest of each URI of a plan. Raises SourceNotFound."""
    return {uri: store.resolve(uri) for uri in plan.uris()}


def find_result(store: Store, repository: str, plan: Plan, resolved: Mapping[str, str]) -> OptimizationResult | None:
    """Return the stored result of a plan. One that cannot be read, or whose artifact is gone, counts as none."""
    found = store.find(repository, tag_of(plan.key(resolved), "plan"))
    try:
        stored = OptimizationResult.model_validate_json(found[1][ANNOTATION_RESULT]) if found else None
        if stored is None or not store.resolve(f"oci://{stored.artifact}"):
            return None
    except (KeyError, ValidationError, UserError):
        return None
    return stored.model_copy(update={"reused": True, "resolved": dict(resolved)})
