"""Conditions: what is true now, why, since when, and for which generation of the spec."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from trimtab_operator.core.times import write_time

_WORDS = {True: "True", False: "False", None: "Unknown"}


@dataclass(frozen=True, slots=True)
class Condition:
    """`status` is None where it is not known."""

    type: str
    status: bool | None
    reason: str
    message: str


def merge(
    before: Sequence[Mapping[str, Any]],
    after: Sequence[Condition],
    generation: int,
    now: datetime,
    keep: bool = False,
) -> list[dict[str, Any]]:
    """Return the conditions to write. The transition time moves only with the status, so a quiet world writes nothing.

    With `keep`, conditions that `after` does not name stay as they were.
    """
    known = {str(item.get("type")): item for item in before}
    written = [_write(item, known.get(item.type), generation, now) for item in after]
    named = {item.type for item in after}
    kept = [dict(item) for kind, item in known.items() if keep and kind not in named]
    return [*kept, *written]


def _write(item: Condition, before: Mapping[str, Any] | None, generation: int, now: datetime) -> dict[str, Any]:
    status = _WORDS[item.status]
    unchanged = before is not None and before.get("status") == status
    since = before.get("lastTransitionTime") if unchanged and before else None
    return {
        "type": item.type,
        "status": status,
        "reason": item.reason,
        "message": item.message,
        "observedGeneration": generation,
        "lastTransitionTime": since or write_time(now),
    }
