"""How long a revision with its artifact at hand takes to be ready, beside a bare Deployment of the same pods."""

import json
import time
from typing import Any

from figures import Table, ratios, spread
from installation import Installation

_ROUNDS = 9


def measure(bench: Installation) -> Table:
    """Start both in turns, one pod each, and remove them again."""
    bench.settle(bench.example("v1.yaml", replicas=1))
    template = _template(bench)
    ours, bare = [], []
    for number in range(_ROUNDS):
        turns = [lambda: ours.append(_ours(bench)), lambda: bare.append(_bare(bench, template))]
        for turn in turns if number % 2 else reversed(turns):
            turn()
    how = (
        f"{_ROUNDS} starts of each in turns, one pod, image and artifact on the node; from the start of `kubectl "
        "apply` to the end of `kubectl wait`. Median (smallest to largest)."
    )
    rows = (
        ("ModelDeployment until Ready", spread(ours, " s"), spread(ratios(ours, bare))),
        ("bare Deployment until Available", spread(bare, " s"), "1"),
    )
    return Table(how, ("", "seconds", "ratio of each pair"), rows)


def _template(bench: Installation) -> dict[str, Any]:
    revision = bench.status()["stableRevision"]
    deployment = bench.target.read("-n", bench.namespace, "deployment", revision)
    template: dict[str, Any] = deployment["spec"]["template"]
    template["metadata"]["labels"] = {"app": "bare"}
    return template


def _ours(bench: Installation) -> float:
    manifest = bench.example("v1.yaml", replicas=1)
    manifest["metadata"]["name"] = "ours"
    seconds = _start(bench, manifest, "mdeploy/ours", "Ready")
    bench.forget("ours")
    return seconds


def _bare(bench: Installation, template: dict[str, Any]) -> float:
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "bare"}}, "template": template}
    manifest = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "bare"}, "spec": spec}
    seconds = _start(bench, manifest, "deployment/bare", "Available")
    bench.kubectl("delete", "deployment", "bare")
    bench.kubectl("wait", "--for=delete", "pod", "-l", "app=bare", "--timeout=120s")
    return seconds


def _start(bench: Installation, manifest: dict[str, Any], what: str, condition: str) -> float:
    started = time.monotonic()
    bench.kubectl("apply", "-f", "-", given=json.dumps(manifest))
    bench.kubectl("wait", f"--for=condition={condition}", what, "--timeout=120s")
    return time.monotonic() - started
