"""What counts as a difference between a desired and a live object: ours, and nothing that the server adds."""

from typing import Any

import pytest

from trimtab_operator.controller.difference import needs_apply, stamped


def service(**spec: Any) -> dict[str, Any]:
    meta = {"name": "digits", "namespace": "default", "labels": {"a": "b"}}
    return stamped({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": {"a": "b"}, **spec}})


def with_what_the_server_adds(desired: dict[str, Any]) -> dict[str, Any]:
    meta = {**desired["metadata"], "uid": "1", "resourceVersion": "7", "managedFields": [{}]}
    return {**desired, "metadata": meta, "spec": {"clusterIP": "10.0.0.1", **desired["spec"]}, "status": {}}


def test_what_is_not_there_is_applied() -> None:
    assert needs_apply(service(), None)


def test_what_the_server_adds_is_no_difference() -> None:
    assert not needs_apply(service(), with_what_the_server_adds(service()))


@pytest.mark.parametrize(
    ("desired", "live"),
    [
        ({"cpu": "1000m"}, {"cpu": "1"}),
        ({"memory": "1024Mi"}, {"memory": "1Gi"}),
        ({"ports": []}, {}),
        ({"nothing": {}}, {}),
        ({"paused": False}, {}),
        ({"ports": [{"port": 1}]}, {"ports": [{"port": 1, "nodePort": 3}]}),
    ],
)
def test_another_way_to_write_the_same_is_no_difference(desired: dict[str, Any], live: dict[str, Any]) -> None:
    wanted = service(**desired)
    found = with_what_the_server_adds(wanted)
    found["spec"] = {"selector": {"a": "b"}, **live}

    assert not needs_apply(wanted, found)


@pytest.mark.parametrize(
    ("desired", "live"),
    [
        ({"cpu": "1000m"}, {"cpu": "2"}),
        ({"type": "ClusterIP"}, {"type": "NodePort"}),
        ({"ports": [{"port": 1}]}, {"ports": [{"port": 1}, {"port": 2}]}),
        ({"ports": [{"port": 1}]}, {}),
        ({}, {"selector": {"a": "b", "more": "c"}}),
        ({}, {"selector": {}}),
    ],
)
def test_a_field_of_ours_that_somebody_changed_is_put_back(desired: dict[str, Any], live: dict[str, Any]) -> None:
    wanted = service(**desired)
    found = with_what_the_server_adds(wanted)
    found["spec"] = {"selector": {"a": "b"}, **live}

    assert needs_apply(wanted, found)


def test_an_apply_of_ours_that_left_a_field_out_is_seen_by_its_stamp() -> None:
    before, after = service(type="ClusterIP"), service()

    assert needs_apply(after, with_what_the_server_adds(before))
