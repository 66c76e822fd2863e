"""Which edits mean another revision, another artifact, or nothing: the contracts behind "edit the spec back"."""

import copy
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_api.contract import canonical_json, digest_of
from trimtab_api.errors import InvalidSpec, TrimtabError, describe_errors
from trimtab_api.package import signature_name
from trimtab_api.plan import Plan, make_plan, tag_of
from trimtab_api.revision import identity_of, rejection_key, revision_name
from trimtab_api.spec import ModelDeploymentSpec

MODEL, CALIBRATION, DATA = (f"oci://registry.local:5000/{name}:v1" for name in ("model", "calibration", "data"))
RESOLVED = {uri: digest_of(uri) for uri in (MODEL, CALIBRATION, DATA)}

FULL: dict[str, Any] = {
    "model": {"uri": MODEL, "secretRef": {"name": "model-read"}},
    "optimization": {
        "passes": [
            {"convert": {"to": "onnx"}},
            {"quantize": {"mode": "static", "calibration": {"uri": CALIBRATION, "samples": 64}}},
        ],
        "timeoutSeconds": 900,
    },
    "evaluation": {"data": DATA, "metrics": [{"name": "accuracy", "min": 0.9}]},
    "runtime": {"batching": {"maxBatchSize": 8}, "podTemplate": {"spec": {"nodeSelector": {"disk": "ssd"}}}},
    "replicas": 2,
    "strategy": {"canary": {"steps": [{"setWeight": 10}]}},
}


def edited(path: str, value: Any) -> ModelDeploymentSpec:
    """Return the full spec with one field, such as `model.uri` or `optimization.passes.1`, set to another value."""
    spec = copy.deepcopy(FULL)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place: Any = spec
    for part in parents:
        place = place.setdefault(part, {}) if isinstance(place, dict) else place[part]
    place[last] = value
    return ModelDeploymentSpec.parse(spec)


def plan_key(spec: ModelDeploymentSpec, resolved: Mapping[str, str] = RESOLVED) -> str:
    return make_plan(spec).key(resolved)


NEUTRAL = {
    "replicas": 7,
    "strategy.canary.steps": [{"setWeight": 50}, {"pause": {}}],
    "strategy.canary.rollbackWindow": 1,
    "evaluation.metrics": [{"name": "sizeBytes", "max": 10}],
    "evaluation.onFailure": "ServeUnoptimized",
    "optimization.timeoutSeconds": 60,
    "optimization.resources": {"limits": {"cpu": 1}},
    "model.secretRef": {"name": "another"},
    "revisionHistoryLimit": 20,
    "progressDeadlineSeconds": 30,
    "paused": True,
}

# What is made, so also what is served.
MAKING = {
    "model.uri": "oci://registry.local:5000/model:v2",
    "model.format": "onnx",
    "model.allowPickle": True,
    "optimization.passes": [{"convert": {}}],
    "optimization.passes.1": {"quantize": {"mode": "dynamic"}},
    "optimization.passes.1.quantize.calibration.samples": 65,
    "optimization.onNoEffect": "Fail",  # a Job that failed by it, or would, is another one
    "evaluation.data": "oci://registry.local:5000/data:v2",
}

SERVING = {
    "runtime.protocols": ["grpc"],
    "runtime.batching.maxDelayMs": 0.5,
    "runtime.resources": {"limits": {"memory": "2Gi"}},
    "runtime.podTemplate.spec.nodeSelector": {"disk": "hdd"},
}


@pytest.mark.parametrize("path", NEUTRAL)
def test_an_edit_that_changes_nothing_served_means_the_same_revision(path: str) -> None:
    assert identity_of(edited(path, NEUTRAL[path])) == identity_of(ModelDeploymentSpec.parse(FULL))


@pytest.mark.parametrize("path", [*MAKING, *SERVING])
def test_an_edit_that_changes_what_is_served_means_another_revision(path: str) -> None:
    assert identity_of(edited(path, (MAKING | SERVING)[path])) != identity_of(ModelDeploymentSpec.parse(FULL))


@pytest.mark.parametrize("path", MAKING)
def test_an_edit_of_what_is_made_means_another_artifact(path: str) -> None:
    resolved = RESOLVED | {f"oci://registry.local:5000/{name}:v2": digest_of(name) for name in ("model", "data")}

    assert plan_key(edited(path, MAKING[path]), resolved) != plan_key(ModelDeploymentSpec.parse(FULL))


@pytest.mark.parametrize("path", SERVING)
def test_an_edit_of_how_it_is_served_means_the_same_artifact(path: str) -> None:
    assert plan_key(edited(path, SERVING[path])) == plan_key(ModelDeploymentSpec.parse(FULL))


@pytest.mark.parametrize("path", [path for path in NEUTRAL if path != "evaluation.onFailure"])
def test_an_edit_of_replicas_steps_or_limits_means_the_same_artifact(path: str) -> None:
    assert plan_key(edited(path, NEUTRAL[path])) == plan_key(ModelDeploymentSpec.parse(FULL))


def test_keeping_the_unoptimized_model_is_another_plan_since_more_is_published() -> None:
    spec = edited("evaluation.onFailure", "ServeUnoptimized")

    assert make_plan(spec).keep_unoptimized
    assert plan_key(spec) != plan_key(ModelDeploymentSpec.parse(FULL))


@pytest.mark.parametrize("moved", [MODEL, CALIBRATION, DATA])
def test_other_content_under_the_same_uri_means_another_artifact(moved: str) -> None:
    spec = ModelDeploymentSpec.parse(FULL)

    assert plan_key(spec, RESOLVED | {moved: digest_of("other")}) != plan_key(spec)


@pytest.mark.parametrize("path", ["model.uri", "optimization.passes.1.quantize.calibration.uri", "evaluation.data"])
def test_the_same_content_in_another_registry_means_the_same_artifact(path: str) -> None:
    mirrors = {uri: uri.replace("registry.local", "mirror.local") for uri in RESOLVED}
    place: Any = FULL
    for part in path.split("."):
        place = place[int(part)] if part.isdigit() else place[part]

    copied = edited(path, mirrors[place])

    assert plan_key(copied, RESOLVED | {mirrors[place]: RESOLVED[place]}) == plan_key(ModelDeploymentSpec.parse(FULL))


def test_an_edit_of_the_last_pass_keeps_the_results_of_those_before_it() -> None:
    before = make_plan(ModelDeploymentSpec.parse(FULL))
    after = make_plan(edited("optimization.passes.1.quantize.calibration.samples", 65))

    assert after.pass_key(1, RESOLVED) == before.pass_key(1, RESOLVED)
    assert after.pass_key(2, RESOLVED) != before.pass_key(2, RESOLVED)


def test_evaluation_data_is_not_part_of_the_key_of_a_pass() -> None:
    plan = make_plan(ModelDeploymentSpec.parse(FULL))

    assert plan.pass_key(2, RESOLVED | {DATA: digest_of("other")}) == plan.pass_key(2, RESOLVED)


def test_what_a_pass_without_effect_means_is_not_part_of_its_key() -> None:
    strict = make_plan(edited("optimization.onNoEffect", "Fail"))

    assert strict.pass_key(2, RESOLVED) == make_plan(ModelDeploymentSpec.parse(FULL)).pass_key(2, RESOLVED)


def test_two_models_under_one_config_have_other_keys() -> None:
    plan = make_plan(edited("replicas", 1))
    other = {**RESOLVED, plan.source.uri: "sha256:" + "9" * 64}
    assert all(plan.pass_key(count, RESOLVED) != plan.pass_key(count, other) for count in range(3))
    assert plan.key(RESOLVED) != plan.key(other)


def test_the_same_weights_under_another_seed_have_other_keys() -> None:
    plan, other = make_plan(edited("replicas", 1)), make_plan(edited("optimization.seed", 1))
    assert all(plan.pass_key(count, RESOLVED) != other.pass_key(count, RESOLVED) for count in range(3))
    assert plan.key(RESOLVED) != other.key(RESOLVED)


def test_every_uri_that_a_pass_reads_is_part_of_its_key_by_what_is_there() -> None:
    passes = [
        {"distill": {"data": "oci://a/data:v1", "teacher": {"uri": "oci://a/t:v1"}, "student": {"uri": "oci://a/s:v1"}}}
    ]
    plan = make_plan(edited("optimization.passes", passes))
    resolved = {uri: f"sha256:{number:064}" for number, uri in enumerate(plan.uris())}
    keys = {
        plan.pass_key(1, resolved | {uri: "sha256:" + "9" * 64})
        for uri in ("oci://a/data:v1", "oci://a/t:v1", "oci://a/s:v1")
    }
    assert len(keys | {plan.pass_key(1, resolved)}) == 4


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (["quantize"], ["convert", "quantize"]),
        (["prune", "distill", "quantize"], ["prune", "distill", "convert", "quantize"]),
        (["clip", "prune", "clip"], ["clip", "prune", "convert", "clip"]),
        ([], ["convert"]),
    ],
)
def test_a_conversion_that_nobody_named_comes_as_early_as_it_can(kinds: list[str], expected: list[str]) -> None:
    options = {
        "quantize": {"dtype": "int4"},
        "prune": {"amount": 0.5},
        "distill": {"data": "oci://a/data:v1"},
        "clip": {"percentile": 99},
    }
    plan = make_plan(edited("optimization.passes", [{kind: options[kind]} for kind in kinds]))
    assert [item.kind for item in plan.passes] == expected


def test_a_plan_names_each_uri_once_and_the_source_first() -> None:
    spec = edited("evaluation.data", CALIBRATION)

    assert make_plan(spec).uris() == (MODEL, CALIBRATION)


def test_a_plan_carries_no_secret() -> None:
    assert "secretRef" not in canonical_json(make_plan(ModelDeploymentSpec.parse(FULL)).to_dict())


def test_a_pytorch_model_without_a_conversion_is_converted_first() -> None:
    plan = make_plan(edited("optimization.passes", [{"quantize": {}}]))

    assert [item.kind for item in plan.passes] == ["convert", "quantize"]


def test_an_onnx_model_is_not_converted() -> None:
    spec = ModelDeploymentSpec.parse({"model": {"uri": MODEL, "format": "onnx"}})

    assert make_plan(spec).passes == ()


@pytest.mark.parametrize("target", ["litert", "savedmodel"])
def test_a_conversion_to_something_else_is_the_one_conversion_and_needs_tensorflow(target: str) -> None:
    plan = make_plan(edited("optimization.passes", [{"prune": {"amount": 0.5}}, {"convert": {"to": target}}]))

    assert [item.kind for item in plan.passes] == ["prune", "convert"]
    assert plan.needs_tensorflow
    assert not make_plan(edited("optimization.passes", [])).needs_tensorflow


def test_a_litert_model_is_not_converted_and_needs_the_image_that_knows_it() -> None:
    plan = make_plan(ModelDeploymentSpec.parse({"model": {"uri": MODEL, "format": "litert"}}))

    assert plan.passes == ()
    assert plan.needs_tensorflow


@pytest.mark.parametrize(
    ("name", "expected"), [("pixels", "pixels"), ("input.1", "input_1"), ("1x", "arg_1x"), ("_a", "arg__a")]
)
def test_a_signature_has_names_that_tensorflow_takes(name: str, expected: str) -> None:
    assert signature_name(name) == expected


def test_a_plan_survives_its_way_into_the_job() -> None:
    plan = make_plan(ModelDeploymentSpec.parse(FULL))

    assert Plan.model_validate_json(canonical_json(plan.to_dict())) == plan


@pytest.mark.parametrize("path", ["evaluation.metrics", "strategy.canary.steps", "progressDeadlineSeconds"])
def test_a_rejected_revision_is_tried_again_once_its_limits_or_steps_change(path: str) -> None:
    before = rejection_key(ModelDeploymentSpec.parse(FULL), retry="")

    assert rejection_key(edited(path, NEUTRAL[path]), retry="") != before


def test_a_rejected_revision_is_tried_again_at_a_persons_word() -> None:
    spec = ModelDeploymentSpec.parse(FULL)

    assert rejection_key(spec, retry="1") != rejection_key(spec, retry="")


@pytest.mark.parametrize("path", ["replicas", "paused", "model.secretRef", "revisionHistoryLimit"])
def test_an_edit_that_has_no_part_in_a_verdict_does_not_try_again(path: str) -> None:
    before = rejection_key(ModelDeploymentSpec.parse(FULL), retry="")

    assert rejection_key(edited(path, NEUTRAL[path]), retry="") == before


def test_names_of_revisions_fit_wherever_kubernetes_puts_them() -> None:
    name = revision_name("a" * 40, digest_of("x"))

    assert len(f"{name}-g{2**31}") <= 63  # the name of the Job, which is also a label of its pod


def test_tags_fit_into_a_registry() -> None:
    assert len(tag_of(digest_of("x"), "pass")) <= 128


@pytest.mark.parametrize(
    ("path", "value", "cause"),
    [
        ("optimization.passes", [{}], "set exactly one pass per item"),
        ("optimization.passes", [{"convert": {}, "quantize": {}}], "set exactly one pass per item"),
        ("strategy.canary.steps", [{"setWeight": 1, "pause": {}}], "set exactly one kind per step"),
        ("replicas", -1, "replicas"),
        ("model.secret", {}, "model.secret"),
    ],
)
def test_a_spec_that_no_server_checked_is_refused_by_the_field(path: str, value: Any, cause: str) -> None:
    with pytest.raises(InvalidSpec, match=cause):
        edited(path, value)


def test_every_error_has_a_reason_of_its_own_that_fits_a_condition() -> None:
    found = describe_errors()

    assert found["InternalError"] is TrimtabError
    assert all(reason.isalpha() and reason[0].isupper() for reason in found)
    assert len({kind for kind in found.values()}) == len(found) == len(_tree(TrimtabError))


def _tree(kind: type[TrimtabError]) -> list[type[TrimtabError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _tree(child))]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=8), below, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_the_digest_of_a_value_survives_json(value: Any) -> None:
    assert digest_of(json.loads(canonical_json(value))) == digest_of(value)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=6), st.randoms())
def test_the_digest_of_a_value_does_not_depend_on_the_order_of_its_keys(value: dict[str, Any], random: Any) -> None:
    keys = list(value)
    random.shuffle(keys)

    assert digest_of({key: value[key] for key in keys}) == digest_of(value)


@given(JSON, JSON)
def test_other_values_have_other_digests(one: Any, other: Any) -> None:
    assert (digest_of(one) == digest_of(other)) == (canonical_json(one) == canonical_json(other))


@given(st.integers(1, 4096), st.floats(0, 1000), st.integers(0, 1000), st.sampled_from([["rest"], ["rest", "grpc"]]))
def test_a_spec_that_was_stored_and_read_back_means_the_same_revision(
    batch: int, delay: float, replicas: int, protocols: list[str]
) -> None:
    runtime = {"protocols": protocols, "batching": {"maxBatchSize": batch, "maxDelayMs": delay}}
    spec = ModelDeploymentSpec.parse({**FULL, "runtime": runtime, "replicas": replicas})

    stored = ModelDeploymentSpec.parse(json.loads(json.dumps(spec.to_dict())))

    assert (stored, identity_of(stored)) == (spec, identity_of(spec))
