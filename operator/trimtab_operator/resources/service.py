"""Services: the one whose name and address stay for ever, and one for each revision.

The main Service is also where it is written down who serves: selector and annotations change in one write, so no crash
can leave them apart.
"""

from typing import Any

from trimtab_api.group import ANNOTATION_CANDIDATE, ANNOTATION_STABLE, LABEL_DEPLOYMENT, LABEL_REVISION
from trimtab_operator.core.observed import Manifest, Parent, Revision
from trimtab_operator.resources.metadata import (
    LABEL_COMPONENT,
    SERVER,
    labels_of,
    manifest,
    metadata,
    owned_by_deployment,
    owned_by_revision,
)

_PORTS = [
    {"name": "http", "port": 8080, "targetPort": "http", "protocol": "TCP"},
    {"name": "grpc", "port": 9000, "targetPort": "grpc", "protocol": "TCP"},
]


def main_service(parent: Parent, stable: str | None, candidate: str | None, selected: str | None) -> Manifest:
    """Return the Service of the ModelDeployment. `selected` is one revision, or None for every serving pod."""
    annotations = {key: name for key, name in ((ANNOTATION_STABLE, stable), (ANNOTATION_CANDIDATE, candidate)) if name}
    meta = metadata(parent, parent.name, labels_of(parent.name), owned_by_deployment(parent), annotations)
    return manifest("v1", "Service", meta, _spec(parent.name, selected))


def revision_service(parent: Parent, revision: Revision) -> Manifest:
    """Return the Service that reaches one revision alone, whatever share of the traffic it has."""
    labels = labels_of(parent.name, revision.name, SERVER)
    meta = metadata(parent, revision.name, labels, owned_by_revision(revision))
    return manifest("v1", "Service", meta, _spec(parent.name, revision.name))


def _spec(deployment: str, revision: str | None) -> dict[str, Any]:
    selector = {LABEL_DEPLOYMENT: deployment, LABEL_COMPONENT: SERVER}
    return {"selector": selector | ({LABEL_REVISION: revision} if revision else {}), "ports": _PORTS}
