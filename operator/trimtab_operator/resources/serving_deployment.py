"""The pods of a revision, made once and recorded in it, and the Deployment that keeps them.

The artifact is mounted read-only as an image volume. What an upgraded operator would build otherwise, or a changed
setting of the chart, holds for revisions to come: nothing that serves is restarted.
"""

from collections.abc import Mapping
from typing import Any

from trimtab_api.group import ANNOTATION_BACKGROUND, LABEL_DEPLOYMENT, LABEL_REVISION
from trimtab_api.spec import Engine, Runtime
from trimtab_operator.core.observed import Manifest, Parent, Revision, Settings
from trimtab_operator.resources.explainer import VARIABLE, explainer_url
from trimtab_operator.resources.metadata import (
    ENGINE,
    LABEL_COMPONENT,
    SERVER,
    environment,
    image_volume,
    labels_of,
    manifest,
    metadata,
    owned_by_revision,
    restricted_container,
    restricted_pod,
)

_DEFAULT_RESOURCES = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}
_AFTER_DRAIN_SECONDS = 25
_MOUNTS = [{"name": "model", "mountPath": "/model", "readOnly": True}, {"name": "tmp", "mountPath": "/tmp"}]


def serving_template(
    parent: Parent, settings: Settings, revision: str, artifact: str, runtime: Runtime, background: str | None
) -> dict[str, Any]:
    """Return the pods of a new revision: today's runtime image with an artifact, and the user's template over it.

    An annotation remembers the data that an explainer of the revision may use as background.
    """
    notes = {"annotations": {ANNOTATION_BACKGROUND: background}} if background else {}
    template = {
        "metadata": {"labels": labels_of(parent.name, revision, SERVER), **notes},
        "spec": _pod_spec(parent, settings, revision, artifact, runtime),
    }
    merged: dict[str, Any] = merge(template, runtime.pod_template or {})
    return merged


def serving_deployment(parent: Parent, revision: Revision, replicas: int, progress_deadline_seconds: int) -> Manifest:
    """Return the Deployment of a revision, with the pods that the revision recorded."""
    labels = labels_of(parent.name, revision.name, SERVER)
    meta = metadata(parent, revision.name, labels, owned_by_revision(revision))
    selector = {key: labels[key] for key in (LABEL_DEPLOYMENT, LABEL_REVISION, LABEL_COMPONENT)}
    body = {
        "replicas": replicas,
        "revisionHistoryLimit": 1,
        "progressDeadlineSeconds": progress_deadline_seconds,
        "selector": {"matchLabels": selector},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": revision.spec.template,
    }
    return manifest("apps/v1", "Deployment", meta, body)


def merge(base: Any, over: Any) -> Any:
    """Lay a user's template over ours: maps key by key, lists of named items item by item, all else replaced."""
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        return {**base, **{key: merge(base.get(key), value) for key, value in over.items()}}
    if _named(base) and _named(over):
        merged = {item["name"]: item for item in base}
        for item in over:
            merged[item["name"]] = merge(merged.get(item["name"]), item)
        return list(merged.values())
    return over


def _named(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) and "name" in item for item in value)


def _pod_spec(parent: Parent, settings: Settings, revision: str, artifact: str, runtime: Runtime) -> dict[str, Any]:
    container = restricted_container(SERVER, settings.runtime_image, settings.image_pull_policy)
    container |= {
        "env": environment(_environment(parent, settings, revision, runtime)),
        "resources": runtime.resources or _DEFAULT_RESOURCES,
        "ports": [
            {"name": "http", "containerPort": 8080, "protocol": "TCP"},
            {"name": "grpc", "containerPort": 9000, "protocol": "TCP"},
        ],
        "volumeMounts": _MOUNTS,
        **_probes(),
    }
    pod = restricted_pod() | {
        "terminationGracePeriodSeconds": settings.drain_seconds + _AFTER_DRAIN_SECONDS,
        "containers": [container],
        "volumes": [image_volume("model", artifact), {"name": "tmp", "emptyDir": {}}],
    }
    if runtime.engine:
        pod["initContainers"] = [_engine(runtime.engine, settings)]
    if settings.artifact_secret:
        pod["imagePullSecrets"] = [{"name": settings.artifact_secret}]
    return pod


def _engine(engine: Engine, settings: Settings) -> dict[str, Any]:
    """Return another engine as a sidecar: it starts before the server that stands before it, and ends after it."""
    command = {"command": list(engine.command)} if engine.command else {}
    return restricted_container(ENGINE, engine.image, settings.image_pull_policy) | {
        **command,
        "args": list(engine.args),
        "env": environment({"HOME": "/tmp"}),
        "restartPolicy": "Always",
        "resources": engine.resources or {},
        "volumeMounts": _MOUNTS,
    }


def _environment(parent: Parent, settings: Settings, revision: str, runtime: Runtime) -> dict[str, str]:
    chosen = {"TRIMTAB_WORKERS": runtime.workers, "TRIMTAB_BATCH_TOLERANCE": runtime.batching.tolerance}
    return {
        "TRIMTAB_MODEL_DIR": "/model",
        "TRIMTAB_MODEL_NAME": parent.name,
        "TRIMTAB_REVISION": revision,
        "TRIMTAB_PROTOCOLS": ",".join(runtime.protocols),
        "TRIMTAB_MAX_BATCH_SIZE": str(runtime.batching.max_batch_size),
        "TRIMTAB_MAX_DELAY_MS": f"{runtime.batching.max_delay_ms:g}",
        "TRIMTAB_DRAIN_SECONDS": str(settings.drain_seconds),
        VARIABLE: explainer_url(revision),
        **{name: f"{value:g}" for name, value in chosen.items() if value is not None},
        **(_stands_before(runtime.engine) if runtime.engine else {}),
    }


def _stands_before(engine: Engine) -> dict[str, str]:
    return {"TRIMTAB_ENGINE": f"http://127.0.0.1:{engine.port}", "TRIMTAB_ENGINE_PROBE": engine.probe_path}


def _probes() -> dict[str, Any]:
    ready = {"httpGet": {"path": "/v2/health/ready", "port": "http"}}
    live = {"httpGet": {"path": "/v2/health/live", "port": "http"}}
    return {
        # A second apart: how soon a pod gets traffic is how soon a rollback is over.
        "startupProbe": ready | {"periodSeconds": 1, "failureThreshold": 600, "timeoutSeconds": 5},
        "readinessProbe": ready | {"periodSeconds": 2, "failureThreshold": 3, "timeoutSeconds": 5},
        "livenessProbe": live | {"periodSeconds": 10, "failureThreshold": 6, "timeoutSeconds": 5},
    }
