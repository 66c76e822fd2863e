"""Another engine runs in the pods of a revision, behind our server, and gets the model as its source has it."""

import asyncio
from typing import Any

import pytest

from trimtab_api.plan import make_plan
from trimtab_api.spec import ModelDeploymentSpec
from trimtab_operator.controller.views import pod_of
from trimtab_testing.simulation import KEY, Simulation, a_spec

ENGINE: dict[str, Any] = {"image": "registry.local/vllm:1", "args": ["--model=/model"], "port": 8001, "resources": {}}
MODEL = {"uri": "oci://registry.local:5000/models/counting:v1", "format": "huggingface"}


@pytest.fixture
def pod() -> dict[str, Any]:
    world = Simulation()
    world.apply(a_spec(model=MODEL, runtime={"engine": ENGINE}))
    world.settle()
    serving = asyncio.run(world.api.get("Deployment", KEY.namespace, world.status["stableRevision"]))
    found: dict[str, Any] = serving["spec"]["template"]["spec"]
    return found


def test_it_starts_before_our_server_and_ends_after_it(pod: dict[str, Any]) -> None:
    [engine] = pod["initContainers"]
    assert (engine["name"], engine["image"], engine["restartPolicy"]) == ("engine", ENGINE["image"], "Always")
    assert engine["args"] == ENGINE["args"]
    assert "command" not in engine
    assert {"name": "model", "mountPath": "/model", "readOnly": True} in engine["volumeMounts"]
    assert engine["securityContext"]["allowPrivilegeEscalation"] is False


def test_our_server_knows_where_it_is_and_keeps_its_probes(pod: dict[str, Any]) -> None:
    [server] = pod["containers"]
    variables = {item["name"]: item["value"] for item in server["env"]}
    assert variables["TRIMTAB_ENGINE"] == "http://127.0.0.1:8001"
    assert variables["TRIMTAB_ENGINE_PROBE"] == "/health"
    assert server["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"


def test_its_model_is_not_converted() -> None:
    spec = {"model": MODEL, "runtime": {"engine": ENGINE}}

    plan = make_plan(ModelDeploymentSpec.parse(spec))

    assert (plan.passes, plan.for_engine) == ((), True)
    assert [item.kind for item in make_plan(ModelDeploymentSpec.parse({"model": MODEL})).passes] == ["convert"]


def test_why_it_does_not_run_is_the_trouble_of_its_pod() -> None:
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    initializing = {"state": {"waiting": {"reason": "PodInitializing"}}}
    status = {"containerStatuses": [initializing], "initContainerStatuses": [waiting]}

    found = pod_of({"metadata": {"name": "counting-1"}, "status": status})

    assert found.trouble == "ImagePullBackOff: no such image"
