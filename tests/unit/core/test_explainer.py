"""An explainer follows the stable revision, and is nobody's revision itself."""

import asyncio
from typing import Any

import pytest

from trimtab_operator.core.observed import Manifest
from trimtab_testing.simulation import KEY, Simulation, a_spec, with_steps

DATA = "oci://registry.local:5000/data/digits-test:v1"
V1 = "oci://registry.local:5000/models/digits:v1"
V2 = "oci://registry.local:5000/models/digits:v2"


def version(uri: str, **changes: Any) -> dict[str, Any]:
    return a_spec(model={"uri": uri, "format": "pytorch"}, **changes)


@pytest.fixture
def world() -> Simulation:
    world = Simulation()
    world.apply(version(V1, explainer={}))
    world.settle()
    return world


def deployment(world: Simulation, revision: str) -> Manifest:
    return asyncio.run(world.api.get("Deployment", KEY.namespace, f"{revision}-explainer"))


def container(item: Manifest) -> dict[str, Any]:
    return dict(item["spec"]["template"]["spec"]["containers"][0])


def variables(item: Manifest) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container(item)["env"]}


def test_the_stable_revision_is_explained_by_a_pod_that_its_servers_know(world: Simulation) -> None:
    stable = world.status["stableRevision"]
    assert deployment(world, stable)["spec"]["replicas"] == 1
    assert variables(deployment(world, stable))["TRIMTAB_REVISION"] == stable
    serving = asyncio.run(world.api.get("Deployment", KEY.namespace, stable))
    assert variables(serving)["TRIMTAB_EXPLAINER"] == f"http://{stable}-explainer:8081"
    assert world.condition("ExplainerReady")["status"] == "True"


def test_it_is_no_pod_of_the_revision(world: Simulation) -> None:
    assert world.status["replicas"] == world.status["readyReplicas"] == 2
    assert world.status["selector"].endswith("component=server")
    stable = world.status["stableRevision"]
    world.not_ready = {f"{stable}-explainer"}
    world.apply(version(V1, explainer={"samples": 50}))
    world.settle()
    assert world.condition("Ready")["status"] == "True"
    assert world.condition("ExplainerReady")["status"] == "False"
    assert world.status["phase"] == "Healthy"


def test_a_candidate_that_gets_requests_is_explained_too_and_keeps_its_pod_when_it_is_promoted(
    world: Simulation,
) -> None:
    first = world.status["stableRevision"]
    world.apply(version(V2, explainer={}, strategy=with_steps({"setWeight": 50}, {"pause": {}})))
    world.settle()
    second = world.status["candidateRevision"]
    assert [deployment(world, name)["spec"]["replicas"] for name in (first, second)] == [1, 1]
    world.apply(version(V2, explainer={}, strategy=with_steps({"setWeight": 50}, {"pause": {}})), promote=second)
    world.settle()
    assert world.status["stableRevision"] == second
    assert [deployment(world, name)["spec"]["replicas"] for name in (first, second)] == [0, 1]


def test_without_servers_nobody_explains(world: Simulation) -> None:
    stable = world.status["stableRevision"]
    world.apply(version(V1, explainer={}, replicas=0))
    world.settle()
    assert deployment(world, stable)["spec"]["replicas"] == 0


def test_a_revision_whose_servers_know_of_no_explainer_is_told_of_and_has_none(world: Simulation) -> None:
    world.apply(version(V1))
    world.settle()
    stable = world.status["stableRevision"]
    revision = asyncio.run(world.api.get("ModelRevision", KEY.namespace, stable))
    pod = revision["spec"]["template"]["spec"]["containers"][0]
    pod["env"] = [item for item in pod["env"] if item["name"] != "TRIMTAB_EXPLAINER"]  # as an older operator made it
    world.api.put(revision)
    world.apply(version(V1, explainer={}))
    world.settle()
    assert world.condition("ExplainerReady")["reason"] == "ServersTooOld"
    assert deployment(world, stable)["spec"]["replicas"] == 0


def test_another_stable_revision_takes_it_over_and_an_edit_back_gives_it_back(world: Simulation) -> None:
    first = world.status["stableRevision"]
    world.apply(version(V2, explainer={}))
    world.settle()
    second = world.status["stableRevision"]
    assert second != first
    assert [deployment(world, name)["spec"]["replicas"] for name in (first, second)] == [0, 1]
    world.apply(version(V1, explainer={}))
    world.settle()
    assert [deployment(world, name)["spec"]["replicas"] for name in (first, second)] == [1, 0]


def test_without_it_in_the_spec_there_are_no_pods_and_nothing_is_said(world: Simulation) -> None:
    stable = world.status["stableRevision"]
    world.apply(version(V1))
    world.settle()
    assert world.status["stableRevision"] == stable
    assert deployment(world, stable)["spec"]["replicas"] == 0
    assert "ExplainerReady" not in [item["type"] for item in world.status["conditions"]]


def test_its_settings_are_no_part_of_what_a_revision_is(world: Simulation) -> None:
    stable, jobs = world.status["stableRevision"], len(world.api.all("Job"))
    world.apply(version(V1, explainer={"method": "lime", "samples": 200, "timeoutSeconds": 5, "backgroundRows": 4}))
    world.settle()
    assert world.status["stableRevision"] == stable
    assert len(world.api.all("Job")) == jobs
    found = variables(deployment(world, stable))
    assert (found["TRIMTAB_METHOD"], found["TRIMTAB_SAMPLES"]) == ("lime", "200")
    assert (found["TRIMTAB_MOST_SECONDS"], found["TRIMTAB_BACKGROUND_ROWS"]) == ("5", "4")
    assert "TRIMTAB_BACKGROUND" not in found


def test_rows_of_the_evaluation_stand_in_for_what_is_hidden_in_the_version_that_was_read() -> None:
    world = Simulation()
    world.apply(version(V1, explainer={}, evaluation={"data": DATA, "metrics": []}))
    world.settle()
    item = deployment(world, world.status["stableRevision"])
    volumes = {volume["name"]: volume for volume in item["spec"]["template"]["spec"]["volumes"]}
    assert variables(item)["TRIMTAB_BACKGROUND"] == "/background"
    repository, _, digest = volumes["background"]["image"]["reference"].partition("@")
    assert repository == "registry.local:5000/data/digits-test"
    assert digest.startswith("sha256:")

    world.apply(version(V1, explainer={}))  # another revision, whose Job has not run yet
    world.jobs_run = False
    world.settle()
    assert "TRIMTAB_BACKGROUND" in variables(deployment(world, world.status["stableRevision"]))
