"""The main job on a real node: from YAML to traffic and back, with callers that notice every failure."""

import time

import pytest

from callers import Callers
from road import Road
from target import Target
from trimtab_testing.operators import Operator

_QUIET_SECONDS = 20
_GONE_SECONDS = 60
_OWNED = ("modelrevisions", "jobs", "deployments", "services", "pods")


def test_the_whole_road_loses_no_request_and_comes_back_without_a_job(target: Target, namespace: str) -> None:
    walked = Road(target, namespace).walk()

    assert walked.failed == 0
    assert walked.answered > 1000
    assert walked.last == walked.first != walked.second
    assert walked.rejected not in (walked.first, walked.second, "")
    assert walked.jobs_of_rollback == 0


def test_a_deployment_deleted_and_applied_again_at_once_is_not_taken_away_by_what_is_left_of_the_former(
    target: Target, namespace: str
) -> None:
    road = Road(target, namespace)
    target.kubectl("-n", namespace, "delete", "mdeploy", "digits", "--wait=false")
    revision = road.apply("v1.yaml", "Healthy")

    with Callers(target, namespace, pause=0.05) as callers:
        callers.start()
        callers.wait_for(400)
    assert callers.failures == []
    assert set(callers.by_revision) == {revision}


def test_a_quiet_operator_writes_nothing_but_its_lease(target: Target, operator: Operator) -> None:
    if target.own is None:
        pytest.skip("only the API server's audit log can tell, which a cluster that was named does not show")
    time.sleep(_QUIET_SECONDS)  # what settles last is the loss of the pods that the rollback left

    assert operator.writes_within(_QUIET_SECONDS) == []


def test_a_deletion_leaves_nothing_even_while_no_operator_runs(target: Target, namespace: str) -> None:
    target.kubectl("-n", namespace, "scale", "deploy/trimtab-operator", "--replicas=0")
    target.kubectl("-n", namespace, "delete", "mdeploy", "digits", "--wait=false")

    deadline = time.monotonic() + _GONE_SECONDS
    while (left := owned(target, namespace)) and time.monotonic() < deadline:
        time.sleep(1)

    assert left == []


def owned(target: Target, namespace: str) -> list[str]:
    label = "trimtab.dev/deployment=digits"
    return target.kubectl("-n", namespace, "get", ",".join(_OWNED), "-l", label, "-o", "name").split()
