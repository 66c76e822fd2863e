"""Names, labels and owners that every child has."""

from typing import Any

from trimtab_api.group import API_VERSION, LABEL_DEPLOYMENT, LABEL_MANAGED_BY, LABEL_REVISION, MODEL_DEPLOYMENT
from trimtab_api.group import MODEL_REVISION as REVISION_KIND
from trimtab_operator.core.observed import Manifest, Parent, Revision

MANAGED_BY = "trimtab"
LABEL_COMPONENT = "app.kubernetes.io/component"
SERVER = "server"
OPTIMIZER = "optimizer"
EXPLAINER = "explainer"
ENGINE = "engine"


def labels_of(deployment: str, revision: str | None = None, component: str | None = None) -> dict[str, str]:
    """Return the labels by which a child is found again."""
    found = {LABEL_MANAGED_BY: MANAGED_BY, LABEL_DEPLOYMENT: deployment}
    if revision:
        found[LABEL_REVISION] = revision
    if component:
        found[LABEL_COMPONENT] = component
    return found


def metadata(
    parent: Parent,
    name: str,
    labels: dict[str, str],
    owner: dict[str, Any],
    annotations: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Return the metadata of a child. Its owner takes it along; no finalizer, so no deletion waits for an operator."""
    found = {"name": name, "namespace": parent.namespace, "labels": labels, "ownerReferences": [owner]}
    return found | ({"annotations": annotations} if annotations else {})


def owned_by_deployment(parent: Parent) -> dict[str, Any]:
    """Return the owner reference to the ModelDeployment."""
    return _owner(MODEL_DEPLOYMENT, parent.name, parent.uid)


def owned_by_revision(revision: Revision) -> dict[str, Any]:
    """Return the owner reference to a ModelRevision."""
    return _owner(REVISION_KIND, revision.name, revision.uid)


def manifest(api_version: str, kind: str, meta: dict[str, Any], spec: dict[str, Any]) -> Manifest:
    """Put an object together."""
    return {"apiVersion": api_version, "kind": kind, "metadata": meta, "spec": spec}


def restricted_container(name: str, image: str, pull_policy: str) -> dict[str, Any]:
    """Return a container that the restricted Pod Security profile admits, with a read-only root."""
    security = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    return {"name": name, "image": image, "imagePullPolicy": pull_policy, "securityContext": security}


def restricted_pod() -> dict[str, Any]:
    """Return the pod-wide part of the same: no token, no root, the runtime's seccomp profile."""
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def image_volume(name: str, reference: str) -> dict[str, Any]:
    """Return a volume that is an image: a model or data, by digest."""
    return {"name": name, "image": {"reference": reference, "pullPolicy": "IfNotPresent"}}


def environment(values: dict[str, str]) -> list[dict[str, str]]:
    """Return the environment of a container, sorted so that equal settings are equal manifests."""
    return [{"name": name, "value": value} for name, value in sorted(values.items())]


def _owner(kind: str, name: str, uid: str) -> dict[str, Any]:
    # No blockOwnerDeletion: it would ask for a permission on finalizers and buys nothing with background deletion.
    return {"apiVersion": API_VERSION, "kind": kind, "name": name, "uid": uid, "controller": True}
