"""Settings of the Job, from its environment."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trimtab_api.errors import InvalidSpec
from trimtab_api.plan import Plan


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """What to do, where to put it, and how to reach the registries."""

    plan: Plan
    artifact_repository: str
    scratch: Path
    insecure_registries: tuple[str, ...] = ()
    docker_configs: tuple[Path, ...] = ()
    registry_dir: Path | None = None
    starts: int | None = None  # how often a process may begin in the same scratch; None where nobody counts


def read_config(environ: Mapping[str, str]) -> OptimizerConfig:
    """Read TRIMTAB_* variables. Raises InvalidSpec naming the one that is missing or wrong."""
    return OptimizerConfig(
        plan=_read_plan(_required(environ, "TRIMTAB_PLAN")),
        artifact_repository=_required(environ, "TRIMTAB_ARTIFACT_REPOSITORY").removeprefix("oci://").rstrip("/"),
        scratch=Path(_required(environ, "TRIMTAB_SCRATCH")),
        insecure_registries=_words(environ.get("TRIMTAB_INSECURE_REGISTRIES", ""), ","),
        docker_configs=tuple(Path(word) for word in _words(environ.get("TRIMTAB_DOCKER_CONFIGS", ""), ":")),
        registry_dir=Path(environ["TRIMTAB_REGISTRY_DIR"]) if environ.get("TRIMTAB_REGISTRY_DIR") else None,
        starts=int(environ["TRIMTAB_STARTS"]) if environ.get("TRIMTAB_STARTS") else None,
    )


def _read_plan(text: str) -> Plan:
    try:
        return Plan.parse(json.loads(text))
    except json.JSONDecodeError as error:
        raise InvalidSpec(f"TRIMTAB_PLAN is not JSON: {error}") from error


def _required(environ: Mapping[str, str], name: str) -> str:
    if not environ.get(name):
        raise InvalidSpec(f"the environment variable {name} is not set")
    return environ[name]


def _words(text: str, separator: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(separator) if word.strip())
