"""The main job on a real node: from YAML to traffic and back, with callers that notice every failure."""

import json
import subprocess
import time
from typing import Any

import pytest
from road import Road

from trimtab_cluster.places import Cluster

_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
_QUIET_SECONDS = 20
_GONE_SECONDS = 60


def test_the_whole_road_loses_no_request_and_comes_back_without_a_job(install: str, road_cluster: Cluster) -> None:
    walked = Road(install).walk()
    assert walked.failed == 0
    assert walked.answered > 300
    assert walked.last == walked.first != walked.second
    assert walked.rejected not in (walked.first, walked.second, "")
    assert walked.jobs_of_rollback == 0
    assert writes_in_a_quiet_time(road_cluster, install) == []
    assert left_after_deletion_without_an_operator(install) == []


def test_an_operator_killed_in_the_middle_of_a_canary_loses_no_request(install: str) -> None:
    walked = Road(install, at_canary=lambda: kill_operator(install)).walk()
    assert walked.failed == 0
    assert walked.last == walked.first


def kill_operator(namespace: str) -> None:
    """Remove the operator's pod without grace, and wait for the next one."""
    for pod in items("pods", namespace, "app.kubernetes.io/name=trimtab-operator"):
        kubectl("-n", namespace, "delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
    kubectl("-n", namespace, "rollout", "status", "deploy/trimtab-operator", "--timeout=60s")


def writes_in_a_quiet_time(cluster: Cluster, namespace: str) -> list[str]:
    """Return what the operator wrote beside its Lease while nothing happened, by the API server's audit log."""
    time.sleep(_QUIET_SECONDS)  # what settles last is the loss of the pods that the rollback left
    log = cluster.log / "audit.log"
    start = log.stat().st_size
    time.sleep(_QUIET_SECONDS)
    with log.open("rb") as lines:
        lines.seek(start)
        entries = [json.loads(line) for line in lines if line.endswith(b"\n")]
    user = f"system:serviceaccount:{namespace}:trimtab-operator"
    return [
        f"{entry['verb']} {entry['requestURI']}"
        for entry in entries
        if entry["user"]["username"] == user and entry["verb"] in _WRITES and "/leases/" not in entry["requestURI"]
    ]


def left_after_deletion_without_an_operator(namespace: str) -> list[str]:
    """Delete the ModelDeployment while no operator runs, and return what of its objects is still there in the end."""
    kubectl("-n", namespace, "scale", "deploy/trimtab-operator", "--replicas=0")
    kubectl("-n", namespace, "delete", "mdeploy", "digits", "--wait=false")
    deadline = time.monotonic() + _GONE_SECONDS
    left = owned(namespace)
    while left and time.monotonic() < deadline:
        time.sleep(1)
        left = owned(namespace)
    return left


def owned(namespace: str) -> list[str]:
    kinds = ("modelrevisions", "jobs", "deployments", "services", "pods")
    label = "trimtab.dev/deployment=digits"
    return [f"{kind}/{item['metadata']['name']}" for kind in kinds for item in items(kind, namespace, label)]


def items(kind: str, namespace: str, label: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(kubectl("-n", namespace, "get", kind, "-l", label, "-o", "json"))["items"]
    return found


def kubectl(*arguments: str) -> str:
    done = subprocess.run(["kubectl", *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"kubectl {' '.join(arguments)}: {done.stderr}")
    return done.stdout
