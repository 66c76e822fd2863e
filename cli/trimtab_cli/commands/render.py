"""render: what a spec leads to, offline: which revision, which Job, which steps."""

import argparse
from pathlib import Path
from typing import Any

import yaml

from trimtab_api.errors import InvalidSpec
from trimtab_api.plan import make_plan
from trimtab_api.spec import ModelDeploymentSpec, Step
from trimtab_operator.core.observed import Parent, Settings
from trimtab_operator.core.revisions import wanted_by
from trimtab_operator.core.scale import pods_for_weight
from trimtab_operator.resources.optimize_job import optimize_job

_SETTINGS = Settings(
    "<optimizer image>",
    "<runtime image>",
    "<artifact repository>",
    optimizer_tensorflow_image="<optimizer image with TensorFlow>",
)


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    render = commands.add_parser("render", help="show what a ModelDeployment leads to, without a cluster")
    render.add_argument("file", type=Path)
    render.set_defaults(run=_render)


def _render(arguments: argparse.Namespace) -> int:
    parent = read_parent(arguments.file)
    spec = ModelDeploymentSpec.parse(parent.spec)
    wanted = wanted_by(spec, parent)
    plan = make_plan(spec)
    job = optimize_job(parent, _SETTINGS, spec, wanted, plan)
    content: dict[str, Any] = {
        "revision": wanted.name,
        "job": job["metadata"]["name"],
        "image": _SETTINGS.optimizer_of(plan),
        "passes": [item.to_dict() for item in plan.passes],
        "gate": [item.to_dict() for item in spec.evaluation.metrics] if spec.evaluation else [],
        "steps": [_describe(step, spec.replicas) for step in spec.strategy.canary.steps] or ["all traffic at once"],
    }
    print(yaml.safe_dump(content, sort_keys=False), end="")
    return 0


def read_parent(file: Path) -> Parent:
    """Read a ModelDeployment from a file. Raises InvalidSpec."""
    content = yaml.safe_load(file.read_text())
    if not isinstance(content, dict) or content.get("kind") != "ModelDeployment":
        raise InvalidSpec(f"{file} holds no ModelDeployment")
    meta = content.get("metadata") or {}
    return Parent(
        name=str(meta.get("name", "")),
        namespace=meta.get("namespace", "default"),
        uid="offline",
        generation=1,
        annotations=meta.get("annotations") or {},
        spec=content.get("spec") or {},
        status={},
    )


def _describe(step: Step, replicas: int) -> str:
    if step.set_weight is not None:
        pods = pods_for_weight(replicas, step.set_weight)
        return f"weight {step.set_weight}: {pods.candidate} new and {pods.stable} old pods"
    if step.pause is not None:
        seconds = step.pause.duration_seconds
        return f"pause of {seconds} s" if seconds is not None else "pause until a person goes on"
    assert step.analysis is not None
    limits = ", ".join(f"{metric.name} at most {metric.max:g}" for metric in step.analysis.metrics)
    return f"analysis of {step.analysis.duration_seconds} s and {step.analysis.min_requests} requests: {limits}"
