"""The table "what a spec edit does", played through the real reconcile in a world in memory."""

import pytest

from trimtab_api.report import JobFailure
from trimtab_api.revision import identity_of, revision_name
from trimtab_api.spec import ModelDeploymentSpec
from trimtab_operator.core.observed import Batching, Sample
from trimtab_testing.simulation import Simulation, a_spec, with_steps

V1 = "oci://registry.local:5000/models/digits:v1"
V2 = "oci://registry.local:5000/models/digits:v2"
V3 = "oci://registry.local:5000/models/digits:v3"
HALF = with_steps({"setWeight": 50}, {"pause": {}})


def version(uri: str, **changes: object) -> dict[str, object]:
    return a_spec(model={"uri": uri, "format": "pytorch"}, **changes)


def name_of(spec: dict[str, object]) -> str:
    return revision_name("digits", identity_of(ModelDeploymentSpec.parse(spec)))


A, B, C = (name_of(version(uri)) for uri in (V1, V2, V3))


@pytest.fixture
def world() -> Simulation:
    """Return a world in which A serves."""
    world = Simulation()
    world.apply(version(V1, strategy=HALF))
    world.settle()
    assert world.status["stableRevision"] == A
    return world


def jobs_started(world: Simulation) -> int:
    return sum(text.startswith("applied Job") for done in world.history for text in done)


def test_the_first_revision_serves_without_steps(world: Simulation) -> None:
    assert world.selected == A
    assert world.condition("Ready")["status"] == "True"
    assert world.status["phase"] == "Healthy"


def test_a_settled_world_is_written_to_no_more(world: Simulation) -> None:
    world.wait(1000)
    assert world.look() is False


def test_a_new_revision_gets_its_weight_and_waits_at_the_pause(world: Simulation) -> None:
    world.apply(version(V2, strategy=HALF))
    world.settle()
    assert world.selected is None
    assert world.status["traffic"] == [{"revision": A, "percent": 50}, {"revision": B, "percent": 50}]
    assert world.status["phase"] == "Paused"
    assert f"resume={B}/1" in world.status["message"]


def test_a_person_ends_a_pause_by_annotation(world: Simulation) -> None:
    world.apply(version(V2, strategy=HALF))
    world.settle()
    world.apply(version(V2, strategy=HALF), resume=f"{B}/1")
    world.settle()
    assert world.status["stableRevision"] == B
    assert world.selected == B


def test_a_promotion_leaves_the_old_revision_warm_until_its_delay_is_over(world: Simulation) -> None:
    promote(world, V2)
    assert world.pods(A) == 2
    world.wait(601)
    assert world.pods(A) == 0


def test_only_the_revision_that_the_last_promotion_left_stays_warm(world: Simulation) -> None:
    promote(world, V2)
    promote(world, V3)
    assert (world.pods(A), world.pods(B), world.pods(C)) == (0, 2, 2)


def test_an_edit_back_to_the_stable_revision_takes_all_traffic_at_once(world: Simulation) -> None:
    world.apply(version(V2, strategy=HALF))
    world.settle()
    before = jobs_started(world)
    world.apply(version(V1, strategy=HALF))
    world.look()
    assert world.selected == A
    world.settle()
    assert world.pods(B) == 0
    assert jobs_started(world) == before


def test_a_warm_revision_comes_back_in_one_look_without_a_job(world: Simulation) -> None:
    promote(world, V2)
    before = jobs_started(world)
    world.apply(version(V1, strategy=HALF))
    world.look()
    assert world.selected == A
    world.settle()
    assert world.status["stableRevision"] == A
    assert world.pods(B) == 0
    assert jobs_started(world) == before


def test_a_cold_revision_comes_back_once_its_pods_are_ready(world: Simulation) -> None:
    promote(world, V2)
    world.wait(601)
    world.not_ready = {A}
    world.apply(version(V1, strategy=HALF))
    world.settle()
    assert world.selected == B
    assert world.status["phase"] == "RollingBack"
    world.not_ready = set()
    world.settle()
    assert world.selected == A


def test_a_revision_outside_the_window_takes_the_steps_but_no_job(world: Simulation) -> None:
    strategy = with_steps({"setWeight": 50}, {"pause": {}}, rollbackWindow=0)
    promote(world, V2)
    before = jobs_started(world)
    world.apply(version(V1, strategy=strategy))
    world.settle()
    assert world.status["candidateRevision"] == A
    assert world.status["stableRevision"] == B
    assert jobs_started(world) == before


def test_a_third_spec_takes_the_traffic_from_the_second_before_its_own_job_is_done(world: Simulation) -> None:
    world.apply(version(V2, strategy=HALF))
    world.settle()
    world.jobs_run = False
    world.apply(version(V3, strategy=HALF))
    world.settle()
    assert world.selected == A
    assert world.pods(B) == 0
    world.jobs_run = True
    world.settle()
    assert world.status["candidateRevision"] == C


def test_a_failed_gate_keeps_the_stable_revision_and_names_the_limit(world: Simulation) -> None:
    world.figures = {"accuracy": (0.90, 0.97)}
    limits = {"data": "oci://registry.local:5000/data/test:v1", "metrics": [{"name": "accuracy", "min": 0.95}]}
    spec = version(V2, strategy=HALF, evaluation=limits)
    world.apply(spec)
    world.settle()
    assert world.selected == A
    assert world.status["rejectedRevision"] == name_of(spec)
    assert "below the minimum 0.95" in world.condition("GatePassed")["message"]
    assert world.condition("Degraded")["status"] == "True"
    assert world.condition("Ready")["status"] == "True"


def test_a_gate_that_cannot_be_computed_promotes_nothing(world: Simulation) -> None:
    world.figures = {"accuracy": (None, None)}
    limits = {"data": "oci://registry.local:5000/data/test:v1", "metrics": [{"name": "accuracy", "min": 0.95}]}
    world.apply(version(V2, evaluation=limits))
    world.settle()
    assert world.selected == A
    assert world.condition("GatePassed")["status"] == "Unknown"


def test_a_failed_gate_may_serve_the_source_unoptimized(world: Simulation) -> None:
    world.figures = {"accuracy": (0.90, 0.97)}
    limits = {
        "data": "oci://registry.local:5000/data/test:v1",
        "metrics": [{"name": "accuracy", "min": 0.95}],
        "onFailure": "ServeUnoptimized",
    }
    spec = version(V2, evaluation=limits)
    world.apply(spec)
    world.settle()
    serving = world.status["stableRevision"]
    assert serving not in (A, name_of(spec))
    images = [
        volume["image"]["reference"]
        for item in world.api.all("Deployment")
        if item["metadata"]["name"] == serving
        for volume in item["spec"]["template"]["spec"]["volumes"]
        if "image" in volume
    ]
    assert images[0].startswith("r/source@")


def test_a_loosened_gate_lets_the_rejected_revision_in_without_a_job(world: Simulation) -> None:
    world.figures = {"accuracy": (0.90, 0.97)}
    data = "oci://registry.local:5000/data/test:v1"
    world.apply(version(V2, evaluation={"data": data, "metrics": [{"name": "accuracy", "min": 0.95}]}))
    world.settle()
    before = jobs_started(world)
    world.apply(version(V2, evaluation={"data": data, "metrics": [{"name": "accuracy", "min": 0.85}]}))
    world.settle()
    assert world.status["stableRevision"] == world.selected != A
    assert jobs_started(world) == before


def test_replicas_strategy_and_the_same_spec_again_make_no_job_and_no_revision(world: Simulation) -> None:
    before = jobs_started(world), len(world.api.all("ModelRevision"))
    for spec in (version(V1, strategy=HALF), version(V1, replicas=5), version(V1, revisionHistoryLimit=3)):
        world.apply(spec)
        world.settle()
    assert (jobs_started(world), len(world.api.all("ModelRevision"))) == before


def test_a_failed_job_is_not_repeated_until_a_retry_is_asked_for(world: Simulation) -> None:
    world.job_failure = JobFailure(reason="SourceNotFound", message="there is no digits:v2; push it")
    world.apply(version(V2))
    world.settle()
    before = jobs_started(world)
    world.wait(5000)
    assert jobs_started(world) == before
    assert world.condition("ArtifactReady")["reason"] == "SourceNotFound"
    assert world.selected == A
    world.job_failure = None
    world.apply(version(V2), retry="1")
    world.settle()
    assert world.status["stableRevision"] == B


def test_an_artifact_that_the_registry_holds_starts_no_job(world: Simulation) -> None:
    from trimtab_api.plan import make_plan

    world.stored[V2] = world.result(make_plan(ModelDeploymentSpec.parse(version(V2))))
    before = jobs_started(world)
    world.apply(version(V2))
    world.settle()
    assert world.status["stableRevision"] == B
    assert jobs_started(world) == before


def test_an_analysis_with_too_few_requests_holds(world: Simulation) -> None:
    start_analysis(world)
    world.sample = sample(requests=20)
    world.wait(100)
    assert world.status["candidateRevision"] == B
    assert "10 of 50 requests" in world.status["message"]


def test_an_analysis_that_is_met_promotes(world: Simulation) -> None:
    start_analysis(world)
    world.sample = sample(requests=100)
    world.wait(30)
    assert world.status["stableRevision"] == B


def test_an_analysis_that_fails_gives_the_traffic_back_and_is_remembered(world: Simulation) -> None:
    start_analysis(world)
    world.sample = sample(requests=100, errors=50)
    world.wait(1)
    assert world.selected == A
    assert world.status["rejectedRevision"] == B
    assert "errorRate" in world.condition("Degraded")["message"]
    world.wait(5000)
    assert world.selected == A
    assert world.pods(B) == 0


def test_pods_that_never_get_ready_are_given_up_after_the_deadline(world: Simulation) -> None:
    world.not_ready = {B}
    world.apply(version(V2, strategy=HALF))
    world.settle()
    assert world.selected == A
    world.wait(601)
    assert world.condition("Degraded")["reason"] == "ProgressDeadlineExceeded"
    assert world.pods(B) == 0


def test_a_paused_spec_starts_nothing(world: Simulation) -> None:
    world.apply(version(V2, paused=True))
    world.settle()
    assert jobs_started(world) == 1
    assert world.selected == A
    assert world.status["phase"] == "Paused"


def test_history_keeps_only_what_the_limit_allows(world: Simulation) -> None:
    for index in range(6):
        uri = f"oci://registry.local:5000/models/digits:h{index}"
        world.apply(version(uri, revisionHistoryLimit=2, strategy={"canary": {"scaleDownDelaySeconds": 0}}))
        world.wait(10)
        world.wait(10)
    assert len(world.api.all("ModelRevision")) == 3


def test_a_deployment_made_again_waits_until_what_the_former_one_owned_is_gone(world: Simulation) -> None:
    world.delete()
    world.apply(version(V1))
    world.settle()
    assert world.status["phase"] == "Pending"
    assert f"ModelRevision/{A}" in world.condition("Ready")["message"]

    world.collect_garbage()
    world.wait(1)
    assert world.status["phase"] == "Healthy"
    assert world.pods(A) == 2


def promote(world: Simulation, uri: str) -> None:
    world.apply(version(uri, strategy=HALF), promote=name_of(version(uri)))
    world.settle()
    assert world.status["stableRevision"] == name_of(version(uri))
    world.apply(version(uri, strategy=HALF))
    world.settle()


def start_analysis(world: Simulation) -> None:
    world.sample = sample(requests=10)
    analysis = {"durationSeconds": 20, "minRequests": 50, "metrics": [{"name": "errorRate", "max": 0.1}]}
    world.apply(version(V2, strategy=with_steps({"setWeight": 50}, {"analysis": analysis})))
    world.settle()
    assert world.status["candidateRevision"] == B


def sample(requests: float, errors: float = 0) -> Sample:
    return Sample(requests, errors, {0.01: requests, float("inf"): requests})


def test_an_operator_with_other_images_and_settings_restarts_nothing_that_serves(world: Simulation) -> None:
    world.upgrade(runtime_image="runtime@sha256:1", drain_seconds=60)
    world.settle()
    assert world.image(A) == "runtime@sha256:0"
    assert world.look() is False

    world.apply(version(V2))
    world.settle()
    assert world.image(B) == "runtime@sha256:1"


def test_the_status_shows_how_far_a_figure_can_be_trusted() -> None:
    behind = {"low": 0.951, "high": 0.981, "pValue": 0.03125}
    world = Simulation(figures={"accuracy": (0.97, 0.98), "rmse": (0.2, 0.1), "sizeBytes": (7, 9)})
    world.details = {"accuracy": behind}
    limits = {"data": "oci://registry.local:5000/data:v1", "metrics": [{"name": "accuracy", "min": 0.9}]}
    world.apply(a_spec(evaluation=limits))
    world.settle()

    accuracy, rmse = world.status["evaluation"]["metrics"]

    assert behind.items() <= accuracy.items()
    assert (accuracy["passed"], accuracy["drop"]) == (True, 0.01)
    assert rmse == {"name": "rmse", "value": 0.2, "source": 0.1}


def test_a_model_whose_rows_do_not_mix_is_told_of_in_the_status_until_another_serves(world: Simulation) -> None:
    assert world.condition("BatchingSafe")["status"] == "True"
    world.batching = Batching("", 1, safe=False, difference=0.01)
    world.apply(version(V2))
    world.settle()

    told = world.condition("BatchingSafe")

    assert (told["status"], told["reason"]) == ("False", "RowsDiffer")
    assert f"{B} answers rows differently" in told["message"]
    assert "by 0.01 of the largest output" in told["message"]
    assert world.status["batching"] == {"revision": B, "rows": 1, "safe": False, "difference": 0.01}


def test_a_server_that_does_not_tell_how_it_batches_leaves_the_condition_open_and_is_asked_again() -> None:
    world = Simulation(batching=None)
    world.apply(version(V1))
    world.settle()
    assert world.condition("BatchingSafe")["status"] == "Unknown"
    assert "batching" not in world.status

    world.batching = Batching("", 8, safe=False, difference=None)
    world.wait(30)

    assert world.condition("BatchingSafe")["status"] == "False"
    assert world.status["batching"] == {"revision": A, "rows": 8, "safe": False}


LITERT = {"passes": [{"convert": {"to": "litert"}}]}


def image_of_the_job(world: Simulation) -> str:
    (job,) = world.api.all("Job")
    return str(job["spec"]["template"]["spec"]["containers"][0]["image"])


def test_a_plan_for_litert_runs_in_the_image_that_has_tensorflow() -> None:
    world = Simulation(jobs_run=False)
    world.upgrade(optimizer_tensorflow_image="optimizer-tensorflow@sha256:1")
    world.apply(version(V1, optimization=LITERT))
    world.settle()

    assert image_of_the_job(world) == "optimizer-tensorflow@sha256:1"


def test_any_other_plan_runs_in_the_image_without_tensorflow() -> None:
    world = Simulation(jobs_run=False)
    world.upgrade(optimizer_tensorflow_image="optimizer-tensorflow@sha256:1")
    world.apply(version(V1))
    world.settle()

    assert image_of_the_job(world) == "optimizer@sha256:0"


def test_without_an_image_for_litert_the_status_says_so_and_what_serves_goes_on(world: Simulation) -> None:
    started = jobs_started(world)

    world.apply(version(V1, optimization=LITERT))
    world.settle()

    assert jobs_started(world) == started
    assert world.selected == A
    condition = world.condition("ArtifactReady")
    assert (condition["status"], condition["reason"]) == ("False", "MissingTool")
    assert "set images.optimizerTensorflow of the chart" in condition["message"]
    assert world.status["phase"] == "Degraded"


def test_an_operator_that_gets_the_image_goes_on_with_the_plan(world: Simulation) -> None:
    spec = version(V1, optimization=LITERT)
    world.apply(spec)
    world.settle()

    world.upgrade(optimizer_tensorflow_image="optimizer-tensorflow@sha256:1")
    world.settle()

    assert world.status["stableRevision"] == name_of(spec)
    assert world.status["phase"] == "Healthy"


def test_an_artifact_that_the_registry_has_needs_no_image() -> None:
    from trimtab_api.plan import make_plan

    spec = version(V1, optimization=LITERT)
    world = Simulation()
    world.stored[V1] = world.result(make_plan(ModelDeploymentSpec.parse(spec)))
    world.apply(spec)
    world.settle()

    assert world.status["phase"] == "Healthy"
    assert jobs_started(world) == 0
