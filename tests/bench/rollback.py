"""How soon an edit back is over for callers, and what it costs: Jobs, pods, bytes."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from figures import Table, spread
from installation import Installation

from callers import WAYS, Answer, Callers

_ROUNDS = 5
_WATCH_SECONDS = 20  # longer than any connection may stay with the revision that was left
_NEW = ("rest-new", "grpc-new")


@dataclass(frozen=True, slots=True)
class Round:
    """One rollback. Seconds are from the start of `kubectl apply` to the last answer of the revision that was left."""

    new: float
    kept: float
    jobs: int
    pods: int
    pulls: int
    answered: int
    failed: int


def measure(bench: Installation) -> Table:
    """Roll back to warm pods and to none, in turns."""
    warm, cold = [], []
    for _ in range(_ROUNDS):
        warm.append(_round(bench, scale_down_delay=600))
        cold.append(_round(bench, scale_down_delay=0))
    how = (
        f"{_ROUNDS} rollbacks of each kind in turns, four callers (REST and gRPC, new and kept connections), two "
        "replicas. Seconds from the start of `kubectl apply`; median (smallest to largest)."
    )
    rows = (
        ("last answer of the revision left, new connections", *_seconds(warm, cold, lambda item: item.new)),
        ("the same, kept connections", *_seconds(warm, cold, lambda item: item.kept)),
        ("Jobs started", *_most(warm, cold, lambda item: item.jobs)),
        ("pods started", *_most(warm, cold, lambda item: item.pods)),
        ("blobs and manifests asked of the registry by the node", *_most(warm, cold, lambda item: item.pulls)),
        (
            "failed requests",
            *(f"{sum(r.failed for r in kind)} of {sum(r.answered for r in kind)}" for kind in (warm, cold)),
        ),
    )
    return Table(how, ("", "previous pods warm", "previous pods gone"), rows)


def _round(bench: Installation, scale_down_delay: int) -> Round:
    strategy = {"canary": {"steps": [], "scaleDownDelaySeconds": scale_down_delay}}
    bench.forget()
    first = bench.settle(bench.example("v1.yaml", strategy=strategy))
    bench.settle(bench.example("v2.yaml", strategy=strategy))
    if scale_down_delay == 0:
        bench.kubectl("wait", "--for=delete", "pod", "-l", f"trimtab.dev/revision={first}", "--timeout=60s")
    with Callers(bench.target, bench.namespace, WAYS) as callers:
        callers.start()
        callers.wait_for(200)
        jobs, pods, pulls = bench.names("jobs"), bench.names("pods"), _pulls(bench)
        edited = time.time()
        bench.settle(bench.example("v1.yaml", strategy=strategy))
        time.sleep(_WATCH_SECONDS)
        callers.still_asking()
    started = {name for name in bench.names("pods") if first in name} - pods
    left = [item for item in callers.answers if item.revision not in ("", first)]
    return Round(
        new=_last([item for item in left if item.way in _NEW], edited),
        kept=_last([item for item in left if item.way not in _NEW], edited),
        jobs=len(bench.names("jobs") - jobs),
        pods=len(started),
        pulls=_pulls(bench) - pulls,
        answered=callers.answered,
        failed=len(callers.failures),
    )


def _last(answers: list[Answer], edited: float) -> float:
    return max(0.0, max((item.ended for item in answers), default=edited) - edited)


def _pulls(bench: Installation) -> int:
    """Return how often containerd asked the registry for anything."""
    assert bench.target.own is not None
    log = (bench.target.own.log / "docker-registry.log").read_text(errors="replace")
    return sum("containerd" in line and '"GET /v2/' in line for line in log.splitlines())


def _seconds(warm: list[Round], cold: list[Round], of: Callable[[Round], float]) -> tuple[str, str]:
    return spread([of(item) for item in warm], " s"), spread([of(item) for item in cold], " s")


def _most(warm: list[Round], cold: list[Round], of: Callable[[Round], int]) -> tuple[str, str]:
    return str(max(of(item) for item in warm)), str(max(of(item) for item in cold))
