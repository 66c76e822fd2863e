"""What the operator writes under its real reconcile, a real API server keeps whole, and kubectl shows in columns."""

from typing import Any

import pytest

from trimtab_api.revision import identity_of
from trimtab_api.spec import ModelDeploymentSpec
from trimtab_operator.core.observed import Sample
from trimtab_testing.apiserver import Namespace, model_deployment
from trimtab_testing.simulation import Simulation, a_spec, with_steps

pytestmark = pytest.mark.apiserver

LIMITS = {"data": "oci://registry.local:5000/data/digits:v1", "metrics": [{"name": "accuracy", "min": 0.9}]}


def deployment(**changes: Any) -> dict[str, Any]:
    return model_deployment(a_spec(**changes))


def rolling_out(*steps: dict[str, Any]) -> Simulation:
    """Return a world in which a second revision has half of the traffic and is at the step after that."""
    world = Simulation(
        figures={"accuracy": (0.969, 0.972), "rmse": (0.2, 0.1)},
        details={"accuracy": {"low": 0.951, "high": 0.981, "pValue": 1.2e-05}},
        sample=Sample(0, 0, {}),
    )
    canary = with_steps({"setWeight": 50}, *steps)
    for version in ("v1", "v2"):
        model = {"uri": f"oci://registry.local:5000/models/digits:{version}"}
        world.apply(a_spec(model=model, strategy=canary, evaluation=LIMITS))
        world.settle()
    return world


def analysing() -> Simulation:
    """Return a world in which half of the requests that an analysis waits for have come."""
    figures = [{"name": "errorRate", "max": 0.1}, {"name": "latencyP95Ms", "max": 900}]
    world = rolling_out({"analysis": {"metrics": figures}})
    world.sample = Sample(50, 1, {0.1: 40.0, 0.5: 50.0})
    world.look()
    return world


def test_the_columns_show_a_rollout_at_a_glance(namespace: Namespace) -> None:
    status = rolling_out({"pause": {}}).status
    namespace.apply(deployment())
    namespace.patch_status("mdeploy/digits", status)

    header, row = (line.split() for line in namespace.must("get", "mdeploy").splitlines())

    assert header == ["NAME", "READY", "PHASE", "STABLE", "CANDIDATE", "WEIGHT", "ACCURACY", "AGE"]
    stable, candidate = status["stableRevision"], status["candidateRevision"]
    assert row[:7] == ["digits", "True", "Paused", stable, candidate, "50", "0.969"]


def test_every_status_field_of_the_operator_is_kept(namespace: Namespace) -> None:
    status = analysing().status
    namespace.apply(deployment())

    namespace.patch_status("mdeploy/digits", status)

    assert {"rollout", "analysis", "evaluation", "optimization", "url", "traffic"} <= status.keys()
    assert namespace.read("mdeploy/digits")["status"] == status


def test_every_field_of_a_revision_that_the_operator_makes_is_kept(namespace: Namespace) -> None:
    for made in rolling_out({"pause": {}}).api.all("ModelRevision"):
        namespace.apply({**made, "metadata": {"name": made["metadata"]["name"]}}, "--server-side")

        assert namespace.read(f"mrev/{made['metadata']['name']}")["spec"] == made["spec"]


def test_the_identity_of_a_spec_is_the_same_before_and_after_the_server_filled_it(namespace: Namespace) -> None:
    pods = {"spec": {"priority": 5}}
    written = a_spec(
        runtime={"batching": {"maxDelayMs": 2}, "podTemplate": pods}, optimization={"passes": [{"quantize": {}}]}
    )
    namespace.apply(model_deployment(written))

    kept = namespace.read("mdeploy/digits")["spec"]

    assert kept != written
    assert identity_of(ModelDeploymentSpec.parse(kept)) == identity_of(ModelDeploymentSpec.parse(written))
