"""The optimize Job: one pod that makes an artifact, with no token and no way to the API server.

The pod failure policy tells two things apart that Kubernetes alone cannot: what the user has to mend (exit code 42, the
Job ends at once) and what is nobody's fault (eviction, preemption: tried again and not counted).

A container that was killed (exit code 137, mostly for memory) is started again in its pod, where its scratch is still
there, and so is the journal of the pass it was at. The Job does not count those starts; the optimizer does.
"""

from typing import Any

from trimtab_api.contract import canonical_json
from trimtab_api.group import ANNOTATION_RETRY
from trimtab_api.plan import Plan
from trimtab_api.report import EXIT_USER_ERROR
from trimtab_api.spec import ModelDeploymentSpec
from trimtab_operator.core.observed import Manifest, Parent, Settings
from trimtab_operator.core.revisions import Wanted
from trimtab_operator.resources.metadata import (
    OPTIMIZER,
    environment,
    labels_of,
    manifest,
    metadata,
    owned_by_deployment,
    restricted_container,
    restricted_pod,
)

_MODEL_SECRET = "/secrets/model"
_ARTIFACT_SECRET = "/secrets/artifacts"
_KILLED = 137  # 128 + SIGKILL
_TRIES = 3  # pods of a Job, and starts in a pod
_DEFAULT_RESOURCES = {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "4Gi"}}


def optimize_job(parent: Parent, settings: Settings, spec: ModelDeploymentSpec, wanted: Wanted, plan: Plan) -> Manifest:
    """Return the Job that makes the artifact of the wanted revision.

    The generation is in the name: a Job that was deleted is never made again under its old name, which the Job
    controller takes badly (kubernetes/kubernetes#142142).
    """
    labels = labels_of(parent.name, wanted.name, OPTIMIZER)
    annotations = {ANNOTATION_RETRY: wanted.retry} if wanted.retry else None
    name = f"{wanted.name}-g{parent.generation}"
    meta = metadata(parent, name, labels, owned_by_deployment(parent), annotations)
    return manifest("batch/v1", "Job", meta, _job_spec(settings, spec, plan, labels))


def _job_spec(settings: Settings, spec: ModelDeploymentSpec, plan: Plan, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "backoffLimit": _TRIES - 1,
        "activeDeadlineSeconds": spec.optimization.timeout_seconds,
        "podReplacementPolicy": "Failed",  # two pods at once would both push
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": OPTIMIZER, "operator": "In", "values": [EXIT_USER_ERROR]},
                },
            ]
        },
        "template": {"metadata": {"labels": labels}, "spec": _pod_spec(settings, spec, plan)},
    }


def _pod_spec(settings: Settings, spec: ModelDeploymentSpec, plan: Plan) -> dict[str, Any]:
    image = settings.optimizer_of(plan) or settings.optimizer_image  # without one that can, no Job is asked for
    container = restricted_container(OPTIMIZER, image, settings.image_pull_policy)
    secrets = _secrets(settings, spec)
    scratch = [{"name": "scratch", "mountPath": "/scratch"}, {"name": "tmp", "mountPath": "/tmp"}]
    container |= {
        "env": environment(_environment(settings, plan, tuple(secrets))),
        "resources": spec.optimization.resources or _DEFAULT_RESOURCES,
        "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [_KILLED]}}],
        "terminationMessagePolicy": "File",
        "volumeMounts": [*scratch, *_mounts(secrets)],
    }
    volumes = [{"name": "scratch", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}, *_volumes(secrets)]
    return restricted_pod() | {"restartPolicy": "Never", "containers": [container], "volumes": volumes}


def _environment(settings: Settings, plan: Plan, secret_paths: tuple[str, ...]) -> dict[str, str]:
    return {
        "HOME": "/tmp",
        "TRIMTAB_PLAN": canonical_json(plan.to_dict()),
        "TRIMTAB_ARTIFACT_REPOSITORY": settings.artifact_repository,
        "TRIMTAB_INSECURE_REGISTRIES": ",".join(settings.insecure_registries),
        "TRIMTAB_DOCKER_CONFIGS": ":".join(secret_paths),
        "TRIMTAB_SCRATCH": "/scratch",
        "TRIMTAB_STARTS": str(_TRIES),
    }


def _secrets(settings: Settings, spec: ModelDeploymentSpec) -> dict[str, str]:
    """Return where each Secret is mounted. The operator itself never reads one."""
    found = {}
    if spec.model.secret_ref:
        found[_MODEL_SECRET] = spec.model.secret_ref.name
    if settings.artifact_secret:
        found[_ARTIFACT_SECRET] = settings.artifact_secret
    return found


def _mounts(secrets: dict[str, str]) -> list[dict[str, Any]]:
    return [{"name": _volume_name(path), "mountPath": path, "readOnly": True} for path in secrets]


def _volumes(secrets: dict[str, str]) -> list[dict[str, Any]]:
    return [{"name": _volume_name(path), "secret": {"secretName": name}} for path, name in secrets.items()]


def _volume_name(path: str) -> str:
    return path.strip("/").replace("/", "-")
