"""Events for people, derived from two statuses: what a reconcile changed, said once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    type: str  # Normal | Warning
    reason: str
    message: str


def events_between(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Event, ...]:
    """Return an event for each condition that changed its status or reason, and for a new stable revision."""
    found = [
        _event(condition)
        for condition in after.get("conditions", ())
        if _word(before, condition["type"]) != (condition["status"], condition["reason"])
    ]
    stable = after.get("stableRevision")
    if stable and stable != before.get("stableRevision"):
        found.append(Event("Normal", "StableRevision", f"{stable} takes all traffic"))
    if after.get("currentStepIndex") != before.get("currentStepIndex") and after.get("currentStepIndex") is not None:
        found.append(Event("Normal", "RolloutStep", str(after.get("message", ""))))
    return tuple(found)


def _event(condition: Mapping[str, Any]) -> Event:
    good = "False" if condition["type"] == "Degraded" else "True"
    bad = condition["status"] != good and condition["type"] in ("Degraded", "GatePassed")
    return Event("Warning" if bad else "Normal", condition["reason"], condition["message"])


def _word(status: Mapping[str, Any], kind: str) -> tuple[str, str] | None:
    for condition in status.get("conditions", ()):
        if condition["type"] == kind:
            return condition["status"], condition["reason"]
    return None
