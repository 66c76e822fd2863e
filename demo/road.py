"""The main job, shown: version 1, an edit to version 2, a bad one, back by an edit; prints what happened."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from callers import Callers
from install import EXAMPLES, manifest_of
from target import Target

_LIMIT_SECONDS = 300


class RoadBlocked(RuntimeError):
    """The example did not get where it should; the text says where it stands."""


@dataclass(frozen=True, slots=True)
class Walked:
    """What happened on the way: who served first, second and last, and what callers saw."""

    first: str
    second: str
    last: str
    rejected: str
    rollback_seconds: float
    jobs_of_rollback: int
    answered: int
    failed: int


class Road:
    """The way of one ModelDeployment in one namespace, where the chart is installed; `walk` is that of the example."""

    def __init__(self, target: Target, namespace: str, name: str = "digits") -> None:
        self._target = target
        self._namespace = namespace
        self._name = name
        self._started = time.monotonic()

    def walk(self) -> Walked:
        """Walk the whole road. Raises RoadBlocked with the status where it does not go on."""
        self._target.kubectl(
            "-n", self._namespace, "delete", "mdeploy", "digits", "--ignore-not-found", "--timeout=60s"
        )
        self.say("version 1: the model as ONNX, held against an accuracy of 0.95")
        first = self.apply("v1.yaml", "Healthy")
        with Callers(self._target, self._namespace) as callers:
            self.say(f"a prediction: {callers.ask()[:160]}")
            callers.start()
            self.say("version 2: int8; a canary with an analysis takes it in")
            second = self.apply("v2.yaml", "Healthy")
            self.say("version 3: a gate that cannot be met")
            self.apply("v3-bad.yaml", "Degraded")
            rejected = str(self.status().get("rejectedRevision", ""))
            self.say("back to version 1 by applying its file again")
            edited, jobs = time.monotonic(), self.jobs()
            back = self.apply("v1.yaml", "Healthy")
            seconds = time.monotonic() - edited
            self.say(f"{back} serves again {seconds:.1f} s after the edit")
            started = len(self.jobs() - jobs)
            callers.still_asking()
        if back != first or second == first:
            raise RoadBlocked(f"the wrong revision serves: {back}, not {first}")
        failed = len(callers.failures)
        self.say(f"asked all along over REST and gRPC, on new and kept connections: {callers.by_revision}")
        self.say(f"{callers.answered} answers, {failed} failures" + "".join(f"\n{item}" for item in callers.failures))
        return Walked(first, second, back, rejected, seconds, started, callers.answered, failed)

    def apply(self, file: str, phase: str) -> str:
        """Apply a file of the example and follow it until it is settled in a phase; return the stable revision."""
        return self.apply_manifest(manifest_of(self._target, EXAMPLES / "digits" / file), phase)

    def apply_manifest(self, manifest: str, phase: str) -> str:
        """Apply the ModelDeployment and follow it likewise."""
        applied = self._target.kubectl("-n", self._namespace, "apply", "-o", "json", "-f", "-", given=manifest)
        generation = json.loads(applied)["metadata"]["generation"]

        def settled(status: dict[str, Any]) -> bool:
            return status.get("observedGeneration") == generation and status.get("phase") == phase

        return str(self.follow(settled).get("stableRevision"))

    def follow(self, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Show the status until it is as wanted, and return it. Raises RoadBlocked where that takes too long."""
        deadline, shown = time.monotonic() + _LIMIT_SECONDS, ""
        while time.monotonic() < deadline:
            status = self.status()
            text = _describe(status)
            if text != shown:
                self.say(f"    {text}")
                shown = text
            if until(status):
                return status
            time.sleep(0.2)
        raise RoadBlocked(f"no progress after {_LIMIT_SECONDS} s: {shown}")

    def say(self, text: str) -> None:
        """Print a line with the time since the start."""
        print(f"[{time.monotonic() - self._started:6.1f}s] {text}", flush=True)

    def status(self) -> dict[str, Any]:
        """Return the status of the ModelDeployment."""
        found: dict[str, Any] = self._target.read("-n", self._namespace, "mdeploy", self._name).get("status", {})
        return found

    def jobs(self) -> set[str]:
        """Return the names of the Jobs that exist."""
        return set(self._target.kubectl("-n", self._namespace, "get", "jobs", "-o", "name").split())


def _describe(status: dict[str, Any]) -> str:
    traffic = " ".join(f"{item['revision']} {item['percent']}%" for item in status.get("traffic", []))
    return f"{status.get('phase', 'Pending')}: {status.get('message', '')}" + (f" [{traffic}]" if traffic else "")
