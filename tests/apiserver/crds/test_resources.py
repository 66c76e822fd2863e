"""The two resources as kubectl shows and changes them: defaults, explanations, apply, status, scale, wait, columns."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from trimtab_api.revision import ModelRevisionSpec, identity_of, revision_name
from trimtab_api.spec import ModelDeploymentSpec
from trimtab_testing.apiserver import CRDS, ApiServer, Namespace
from trimtab_testing.simulation import Simulation, a_spec, with_steps

pytestmark = pytest.mark.apiserver

DIGEST = "sha256:" + "ab" * 32
LIMITS = {"data": "oci://registry.local:5000/data/digits:v1", "metrics": [{"name": "accuracy", "min": 0.9}]}


def deployment(name: str = "digits", **changes: Any) -> dict[str, Any]:
    return {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": a_spec(**changes),
    }


def revision(**changes: Any) -> dict[str, Any]:
    spec = {
        "deployment": "digits",
        "identity": DIGEST,
        "number": 1,
        "artifact": {
            "image": f"registry.local:5000/trimtab/default@{DIGEST}",
            "plan": DIGEST,
            "resolved": {"oci://registry.local:5000/models/digits:v1": DIGEST},
            "metrics": [{"name": "accuracy", "value": 0.969, "source": 0.972}],
        },
        "runtime": {"podTemplate": {"spec": {"nodeSelector": {"disk": "ssd"}}}},
        "runtimeImage": f"registry.local:5000/trimtab/runtime@{DIGEST}",
    }
    return {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "ModelRevision",
        "metadata": {"name": "digits-abababab"},
        "spec": spec | changes,
    }


def described_nodes(plural: str) -> Iterator[str]:
    """Yield the path of every node of a CRD that has fields below it, as kubectl explain wants it."""
    crd = yaml.safe_load((CRDS / f"{plural}.yaml").read_text())
    waiting = [(plural, crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])]
    while waiting:
        path, node = waiting.pop()
        fields = node.get("properties") or node.get("items", {}).get("properties") or {}
        if fields:
            yield path
        waiting += [(f"{path}.{name}", field) for name, field in fields.items()]


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


@pytest.mark.parametrize("plural", ["modeldeployments", "modelrevisions"])
def test_kubectl_explain_describes_every_field(apiserver: ApiServer, plural: str) -> None:
    silent = [path for path in described_nodes(plural) if "<no description>" in apiserver.must("explain", path)]

    assert not silent


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


def rolling_out() -> Simulation:
    """Return a world in which a second revision has half of the traffic and waits for a person."""
    world = Simulation(figures={"accuracy": (0.969, 0.972)})
    canary = with_steps({"setWeight": 50}, {"pause": {}})
    world.apply(a_spec(strategy=canary, evaluation=LIMITS))
    world.settle()
    world.apply(a_spec(model={"uri": "oci://registry.local:5000/models/digits:v2"}, strategy=canary, evaluation=LIMITS))
    world.settle()
    return world


def test_the_columns_show_a_rollout_at_a_glance(namespace: Namespace) -> None:
    status = rolling_out().status
    namespace.apply(deployment())
    namespace.patch_status("mdeploy/digits", status)

    header, row = (line.split() for line in namespace.must("get", "mdeploy").splitlines())

    assert header == ["NAME", "READY", "PHASE", "STABLE", "CANDIDATE", "WEIGHT", "ACCURACY", "AGE"]
    stable, candidate = status["stableRevision"], status["candidateRevision"]
    assert row[:7] == ["digits", "True", "Paused", stable, candidate, "50", "0.969"]


def test_every_status_field_of_the_operator_is_kept(namespace: Namespace) -> None:
    world = rolling_out()
    world.apply(
        a_spec(
            model={"uri": "oci://registry.local:5000/models/digits:v2"},
            strategy=with_steps({"setWeight": 50}, {"analysis": {"metrics": [{"name": "errorRate", "max": 0.1}]}}),
            evaluation=LIMITS,
        )
    )
    world.settle()
    namespace.apply(deployment())

    namespace.patch_status("mdeploy/digits", world.status)

    assert namespace.read("mdeploy/digits")["status"] == world.status


def test_every_field_of_a_revision_that_the_operator_makes_is_kept(namespace: Namespace) -> None:
    for made in rolling_out().api.all("ModelRevision"):
        namespace.apply({**made, "metadata": {"name": made["metadata"]["name"]}}, "--server-side")

        kept = namespace.read(f"mrev/{made['metadata']['name']}")["spec"]
        assert ModelRevisionSpec.parse(kept) == ModelRevisionSpec.parse(made["spec"])


def test_the_identity_of_a_spec_is_the_same_before_and_after_the_server_filled_it(namespace: Namespace) -> None:
    written = deployment(runtime={"batching": {"maxDelayMs": 2}, "podTemplate": {"spec": {"priority": 5}}})
    namespace.apply(written)

    kept = namespace.read("mdeploy/digits")["spec"]

    identities = [identity_of(ModelDeploymentSpec.parse(spec)) for spec in (written["spec"], kept)]
    assert len({revision_name("digits", identity) for identity in identities}) == 1


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"number": 2}, id="its number"),
        pytest.param({"artifact": {"image": f"registry.local:5000/other@{DIGEST}"}}, id="its artifact"),
        pytest.param({"runtime": {"protocols": ["grpc"]}}, id="its settings"),
        pytest.param({"runtime": {"podTemplate": {"spec": {"nodeSelector": {"disk": "hdd"}}}}}, id="its pods"),
        pytest.param({"runtime": {"podTemplate": None}}, id="a field less"),
        pytest.param({"artifact": {"unoptimizedImage": f"registry.local:5000/other@{DIGEST}"}}, id="a field more"),
    ],
)
def test_the_spec_of_a_revision_never_changes(namespace: Namespace, change: dict[str, Any]) -> None:
    assert namespace.apply(revision()).code == 0

    answer = namespace.kubectl("patch", "mrev/digits-abababab", "--type=merge", "-p", json.dumps({"spec": change}))

    assert "a ModelRevision never changes; edit the spec of its ModelDeployment instead" in answer.err
    assert namespace.read("mrev/digits-abababab")["metadata"]["generation"] == 1


def test_a_revision_can_be_marked_in_annotations(namespace: Namespace) -> None:
    namespace.apply(revision())

    namespace.must("annotate", "mrev/digits-abababab", "trimtab.dev/stable-since=2026-01-01T00:00:00Z")
    namespace.must("label", "mrev/digits-abababab", "trimtab.dev/deployment=digits")


def test_a_revision_that_is_applied_again_stays_what_it_is(namespace: Namespace) -> None:
    namespace.apply(revision(), "--server-side")
    spec = ModelRevisionSpec.parse(revision()["spec"]).to_dict()

    answer = namespace.apply({**revision(), "spec": spec}, "--server-side")

    assert answer.code == 0, answer.err
    assert namespace.read("mrev/digits-abababab")["metadata"]["generation"] == 1


def test_the_columns_of_revisions_show_number_owner_and_accuracy(namespace: Namespace) -> None:
    namespace.apply(revision())

    header, row = (line.split() for line in namespace.must("get", "mrev", "-o", "wide").splitlines())

    assert header == ["NAME", "NUMBER", "DEPLOYMENT", "ACCURACY", "ARTIFACT", "AGE"]
    assert row[:5] == ["digits-abababab", "1", "digits", "0.969", f"registry.local:5000/trimtab/default@{DIGEST}"]


def test_a_revision_by_tag_is_refused(namespace: Namespace) -> None:
    artifact = revision()["spec"]["artifact"] | {"image": "registry.local:5000/trimtab/default:v1"}

    answer = namespace.apply(revision(artifact=artifact))

    assert "spec.artifact.image in body should match" in answer.err
