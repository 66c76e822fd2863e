"""Weights by pod numbers. A Service spreads connections evenly, so the share of a revision is its share of the pods.

With R replicas asked for, the stable revision keeps all R up to half of the traffic, so that going back never waits:

    w <= 50:  stable R, candidate round(R * w / (100 - w)), at least 1
    w >  50:  candidate R, stable round(R * (100 - w) / w), at least 1

    R = 4, w = 20:  stable 4, candidate 1   (20 %)
    R = 4, w = 50:  stable 4, candidate 4   (50 %)
    R = 4, w = 80:  stable 1, candidate 4   (80 %)
    R = 2, w = 10:  stable 2, candidate 1   (33 %: one pod is the least; status tells the real share)
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PodNumbers:
    stable: int
    candidate: int


def pods_for_weight(replicas: int, weight: int) -> PodNumbers:
    """Return the pods of both revisions that come nearest to `weight` percent for the candidate."""
    if weight <= 0 or replicas == 0:
        return PodNumbers(stable=replicas, candidate=0)
    if weight >= 100:
        return PodNumbers(stable=replicas, candidate=replicas)
    if weight <= 50:
        return PodNumbers(stable=replicas, candidate=max(1, round(replicas * weight / (100 - weight))))
    return PodNumbers(stable=max(1, round(replicas * (100 - weight) / weight)), candidate=replicas)


def share(candidate: int, stable: int) -> int:
    """Return the percent of connections that reach the candidate's pods."""
    return round(100 * candidate / (candidate + stable)) if candidate + stable else 0
