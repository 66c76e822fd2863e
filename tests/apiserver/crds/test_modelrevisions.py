"""A ModelRevision under kubectl: its spec never changes, its marks do."""

import json
from typing import Any

import pytest

from trimtab_api.revision import ModelRevisionSpec
from trimtab_testing.apiserver import Namespace

pytestmark = pytest.mark.apiserver

DIGEST = "sha256:" + "ab" * 32


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
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"nodeSelector": {"disk": "ssd"}}},
    }
    return {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "ModelRevision",
        "metadata": {"name": "digits-abababab"},
        "spec": spec | changes,
    }


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"number": 2}, id="its number"),
        pytest.param({"artifact": {"image": f"registry.local:5000/other@{DIGEST}"}}, id="its artifact"),
        pytest.param({"template": {"metadata": {"labels": {"a": "c"}}}}, id="the labels of its pods"),
        pytest.param({"template": {"spec": {"nodeSelector": {"disk": "hdd"}}}}, id="its pods"),
        pytest.param({"template": {"metadata": None}}, id="a field less"),
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
