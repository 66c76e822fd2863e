"""The operator's configuration, from the environment that the chart sets."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from trimtab_operator.core.observed import Settings


class MissingSetting(RuntimeError):
    """A required variable is not set."""


@dataclass(frozen=True, slots=True)
class OperatorConfig:
    """`namespaces` empty means all of them; `lease_namespace` is where the Lease lives."""

    settings: Settings
    namespaces: tuple[str, ...]
    lease_namespace: str
    lease_name: str = "trimtab-operator"
    workers: int = 8
    health_port: int = 8081
    log_level: str = "info"


def read_config(environ: Mapping[str, str] = os.environ) -> OperatorConfig:
    """Read the configuration. Raises MissingSetting naming the variable."""
    settings = Settings(
        optimizer_image=_required(environ, "TRIMTAB_OPTIMIZER_IMAGE"),
        optimizer_tensorflow_image=environ.get("TRIMTAB_OPTIMIZER_TENSORFLOW_IMAGE") or None,
        runtime_image=_required(environ, "TRIMTAB_RUNTIME_IMAGE"),
        artifact_repository=_required(environ, "TRIMTAB_ARTIFACT_REPOSITORY").rstrip("/"),
        insecure_registries=_words(environ.get("TRIMTAB_INSECURE_REGISTRIES", "")),
        artifact_secret=environ.get("TRIMTAB_ARTIFACT_SECRET") or None,
        image_pull_policy=environ.get("TRIMTAB_IMAGE_PULL_POLICY", "IfNotPresent"),
        drain_seconds=int(environ.get("TRIMTAB_DRAIN_SECONDS", "5")),
    )
    return OperatorConfig(
        settings=settings,
        namespaces=_words(environ.get("TRIMTAB_NAMESPACES", "")),
        lease_namespace=_required(environ, "TRIMTAB_LEASE_NAMESPACE"),
        workers=int(environ.get("TRIMTAB_WORKERS", "8")),
        health_port=int(environ.get("TRIMTAB_HEALTH_PORT", "8081")),
        log_level=environ.get("TRIMTAB_LOG_LEVEL", "info"),
    )


def _required(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "")
    if not value:
        raise MissingSetting(f"the environment variable {name} has to be set; the chart in charts/trimtab sets it")
    return value


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
