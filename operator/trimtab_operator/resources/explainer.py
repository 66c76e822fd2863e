"""The explainer of a revision: a pod that holds its artifact too, and the Service by which its servers reach it.

Revisions that serve have one with a pod. That of another has no pods, and goes with its revision.
"""

from collections.abc import Mapping
from typing import Any

from trimtab_api.group import ANNOTATION_BACKGROUND
from trimtab_api.spec import Explainer, ModelDeploymentSpec
from trimtab_operator.core.observed import Manifest, Parent, Revision, Settings
from trimtab_operator.resources.metadata import (
    EXPLAINER,
    environment,
    image_volume,
    labels_of,
    manifest,
    metadata,
    owned_by_revision,
    restricted_container,
    restricted_pod,
)

_PORT = 8081
VARIABLE = "TRIMTAB_EXPLAINER"  # of servers
_DEFAULT_RESOURCES = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "2Gi"}}


def explainer_name(revision: str) -> str:
    """Return the name of Deployment and Service."""
    return f"{revision}-explainer"


def explainer_url(revision: str) -> str:
    """Return where the servers of a revision find it, whether or not there is one now."""
    return f"http://{explainer_name(revision)}:{_PORT}"


def can_ask(revision: Revision) -> bool:
    """Tell whether the servers of a revision know of its explainer: those of older operators do not."""
    pod = revision.spec.template.get("spec", {})
    return any(
        item.get("name") == VARIABLE for container in pod.get("containers", ()) for item in container.get("env", ())
    )


def explainer(
    parent: Parent, settings: Settings, spec: ModelDeploymentSpec, revision: Revision, replicas: int
) -> tuple[Manifest, Manifest]:
    """Return Service and Deployment. Without `spec.explainer` they are as with its defaults, for no pods."""
    name, labels = explainer_name(revision.name), labels_of(parent.name, revision.name, EXPLAINER)
    meta = metadata(parent, name, labels, owned_by_revision(revision))
    ports = [{"name": "http", "port": _PORT, "targetPort": "http", "protocol": "TCP"}]
    body = {
        "replicas": replicas,
        "revisionHistoryLimit": 1,
        "selector": {"matchLabels": labels},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": {"metadata": {"labels": labels}, "spec": _pod_spec(parent, settings, spec, revision)},
    }
    return (
        manifest("v1", "Service", meta, {"selector": labels, "ports": ports}),
        manifest("apps/v1", "Deployment", meta, body),
    )


def _pod_spec(parent: Parent, settings: Settings, spec: ModelDeploymentSpec, revision: Revision) -> dict[str, Any]:
    wanted = spec.explainer or Explainer()
    data = revision.spec.template.get("metadata", {}).get("annotations", {}).get(ANNOTATION_BACKGROUND)
    mounts = {"model": revision.spec.artifact.image} | ({"background": data} if data else {})
    ready = {"httpGet": {"path": "/healthz", "port": "http"}}
    container = restricted_container(EXPLAINER, settings.runtime_image, settings.image_pull_policy)
    container |= {
        "command": ["/opt/trimtab/venv/bin/trimtab-explainer"],
        "env": environment(_environment(parent, revision, wanted, bool(data))),
        "resources": wanted.resources or _DEFAULT_RESOURCES,
        "ports": [{"name": "http", "containerPort": _PORT, "protocol": "TCP"}],
        "volumeMounts": [
            *({"name": key, "mountPath": f"/{key}", "readOnly": True} for key in mounts),
            {"name": "tmp", "mountPath": "/tmp"},
        ],
        "startupProbe": ready | {"periodSeconds": 1, "failureThreshold": 600, "timeoutSeconds": 5},
        "readinessProbe": ready | {"periodSeconds": 5, "failureThreshold": 3, "timeoutSeconds": 5},
    }
    volumes = [image_volume(key, image) for key, image in mounts.items()]
    pod = restricted_pod() | {"containers": [container], "volumes": [*volumes, {"name": "tmp", "emptyDir": {}}]}
    secrets = [settings.artifact_secret, spec.model.secret_ref.name if spec.model.secret_ref else None]
    if named := [{"name": name} for name in secrets if name]:
        pod["imagePullSecrets"] = named
    return pod


def _environment(parent: Parent, revision: Revision, wanted: Explainer, has_data: bool) -> dict[str, str]:
    return {
        "TRIMTAB_MODEL_DIR": "/model",
        "TRIMTAB_MODEL_NAME": parent.name,
        "TRIMTAB_REVISION": revision.name,
        "TRIMTAB_EXPLAINER_PORT": str(_PORT),
        "TRIMTAB_METHOD": wanted.method,
        "TRIMTAB_SAMPLES": str(wanted.samples),
        "TRIMTAB_MOST_SECONDS": str(wanted.timeout_seconds),
        "TRIMTAB_BACKGROUND_ROWS": str(wanted.background_rows),
        **({"TRIMTAB_BACKGROUND": "/background"} if has_data else {}),
    }


def background_of(spec: ModelDeploymentSpec, resolved: Mapping[str, str]) -> str | None:
    """Return the image of the data that a revision is held against, as its Job read it; None where there is none.

    To be recorded in the revision: the spec may be edited while it serves.
    """
    uri = spec.evaluation.data if spec.evaluation else None
    digest = resolved.get(uri) if uri else None
    if uri is None or digest is None:
        return None
    repository = uri.removeprefix("oci://").partition("@")[0]
    host, slash, path = repository.rpartition("/")
    return f"{host}{slash}{path.partition(':')[0]}@{digest}"
