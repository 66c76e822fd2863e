"""A ModelDeployment under kubectl: defaults, both kinds of apply, status, scale, wait."""

import json
from typing import Any

import pytest

from trimtab_api.spec import ModelDeploymentSpec
from trimtab_testing.apiserver import Namespace, model_deployment
from trimtab_testing.simulation import a_spec, with_steps

pytestmark = pytest.mark.apiserver

LIMITS = {"data": "oci://registry.local:5000/data/digits:v1", "metrics": [{"name": "accuracy", "min": 0.9}]}


def deployment(**changes: Any) -> dict[str, Any]:
    return model_deployment(a_spec(**changes))


def test_an_applied_spec_is_filled_with_the_defaults_of_the_types(namespace: Namespace) -> None:
    written = {"model": {"uri": "oci://registry.local:5000/models/digits:v1"}}

    namespace.apply({**deployment(), "spec": written})

    assert namespace.read("mdeploy/digits")["spec"] == ModelDeploymentSpec.parse(written).to_dict()


def test_defaults_inside_lists_are_those_of_the_types(namespace: Namespace) -> None:
    calibration = {"uri": "oci://registry.local:5000/data/digits:v1"}
    passes = [{"convert": {}}, {"quantize": {"mode": "static", "calibration": calibration}}]
    steps = with_steps({"setWeight": 5}, {"analysis": {"metrics": [{"name": "errorRate", "max": 0.5}]}})
    made = deployment(optimization={"passes": passes}, evaluation=LIMITS, strategy=steps)

    namespace.apply(made)

    assert namespace.read("mdeploy/digits")["spec"] == ModelDeploymentSpec.parse(made["spec"]).to_dict()


def test_client_side_apply_changes_and_removes_fields_like_that_of_any_resource(namespace: Namespace) -> None:
    assert namespace.apply(deployment(replicas=3, evaluation=LIMITS)).code == 0
    assert namespace.apply(deployment(replicas=4)).code == 0

    spec = namespace.read("mdeploy/digits")["spec"]
    assert spec["replicas"] == 4
    assert "evaluation" not in spec


def test_server_side_apply_changes_and_removes_fields_like_that_of_any_resource(namespace: Namespace) -> None:
    assert namespace.apply(deployment(replicas=3, evaluation=LIMITS), "--server-side").code == 0
    assert namespace.apply(deployment(replicas=4), "--server-side").code == 0

    spec = namespace.read("mdeploy/digits")["spec"]
    assert spec["replicas"] == 4
    assert "evaluation" not in spec


def test_what_was_applied_shows_no_difference_afterwards(namespace: Namespace) -> None:
    namespace.apply(deployment())

    answer = namespace.kubectl("diff", "-f", "-", stdin=json.dumps(deployment()))

    assert (answer.code, answer.out) == (0, "")


def test_an_edit_back_restores_the_very_same_spec(namespace: Namespace) -> None:
    namespace.apply(deployment(evaluation=LIMITS))
    before = namespace.read("mdeploy/digits")
    namespace.apply(deployment(evaluation=LIMITS | {"data": "oci://registry.local:5000/data/digits:v2"}))

    namespace.apply(deployment(evaluation=LIMITS))

    after = namespace.read("mdeploy/digits")
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 2


def test_a_manifest_cannot_write_status(namespace: Namespace) -> None:
    namespace.apply({**deployment(), "status": {"phase": "Healthy", "stableRevision": "mine"}})

    assert "status" not in namespace.read("mdeploy/digits")


def test_a_status_write_touches_neither_spec_nor_generation(namespace: Namespace) -> None:
    namespace.apply(deployment())
    before = namespace.read("mdeploy/digits")
    change = json.dumps({"spec": {"replicas": 9}, "status": {"phase": "Healthy"}})

    namespace.must("patch", "mdeploy/digits", "--subresource=status", "--type=merge", "-p", change)

    after = namespace.read("mdeploy/digits")
    assert after["status"]["phase"] == "Healthy"
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


def test_a_spec_edit_keeps_the_status(namespace: Namespace) -> None:
    namespace.apply(deployment())
    namespace.patch_status("mdeploy/digits", {"phase": "Healthy"})

    namespace.apply(deployment(replicas=5))

    assert namespace.read("mdeploy/digits")["status"] == {"phase": "Healthy"}


def test_a_phase_that_is_none_is_refused(namespace: Namespace) -> None:
    namespace.apply(deployment())

    answer = namespace.patch_status("mdeploy/digits", {"phase": "Happy"})

    assert 'Unsupported value: "Happy"' in answer.err


def test_kubectl_scale_sets_the_replicas(namespace: Namespace) -> None:
    namespace.apply(deployment())

    namespace.must("scale", "mdeploy/digits", "--replicas=7")

    assert namespace.read("mdeploy/digits")["spec"]["replicas"] == 7


def test_the_scale_subresource_shows_pods_and_selector_to_an_autoscaler(namespace: Namespace) -> None:
    namespace.apply(deployment())
    namespace.patch_status("mdeploy/digits", {"replicas": 3, "selector": "trimtab.dev/deployment=digits"})

    scale = json.loads(namespace.must("get", "mdeploy", "digits", "--subresource=scale", "-o", "json"))

    assert scale["spec"]["replicas"] == 2
    assert scale["status"] == {"replicas": 3, "selector": "trimtab.dev/deployment=digits"}


def test_kubectl_wait_sees_that_it_is_ready(namespace: Namespace) -> None:
    namespace.apply(deployment())
    ready = {"type": "Ready", "status": "True", "reason": "StableServing", "message": "digits-1 serves"}
    namespace.patch_status("mdeploy/digits", {"conditions": [ready | {"lastTransitionTime": "2026-01-01T00:00:00Z"}]})

    answer = namespace.kubectl("wait", "--for=condition=Ready", "mdeploy/digits", "--timeout=10s")

    assert (answer.code, answer.out) == (0, "modeldeployment.trimtab.dev/digits condition met\n")
