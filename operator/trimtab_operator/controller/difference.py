"""Does a live object already have everything the desired one says? What the API server added by itself does not count.

An object is applied when our last apply was another one, or when somebody changed a field that is ours. Comparing first
is what keeps a quiet operator quiet: even an apply that changes nothing is a request in the audit log.
"""

from typing import Any, Final

from trimtab_api.contract import digest_of
from trimtab_api.group import ANNOTATION_APPLIED
from trimtab_operator.core.observed import Manifest
from trimtab_operator.kube.quantities import same_quantity

# Maps in which a key of somebody else changes the meaning of ours.
_WHOLE: Final = frozenset({"selector", "matchLabels"})


def stamped(desired: Manifest) -> Manifest:
    """Return the object with the digest of itself, to be recognised later."""
    meta = desired["metadata"]
    annotations = {**meta.get("annotations", {}), ANNOTATION_APPLIED: digest_of(desired)[7:23]}
    return {**desired, "metadata": {**meta, "annotations": annotations}}


def needs_apply(desired: Manifest, live: Manifest | None) -> bool:
    """Tell whether applying `desired` (stamped) would change anything of ours in `live`."""
    return live is None or not _contains(live, desired)


def _contains(live: Any, desired: Any) -> bool:
    if isinstance(desired, dict):
        if not isinstance(live, dict):
            # The API server leaves empty maps out.
            return not desired and live is None
        return all(_agrees(key, live.get(key), value) for key, value in desired.items())
    if isinstance(desired, list):
        if not isinstance(live, list):
            return not desired and live is None
        return len(live) == len(desired) and all(map(_contains, live, desired))
    return live == desired or (live is None and desired in ("", False, 0)) or same_quantity(live, desired)


def _agrees(key: str, live: Any, desired: Any) -> bool:
    return bool(live == desired) if key in _WHOLE and "matchLabels" not in desired else _contains(live, desired)
