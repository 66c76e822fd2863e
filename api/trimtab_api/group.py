"""Names that all programs share: API group, kinds, labels, annotations and the field manager."""

from typing import Final

GROUP: Final = "trimtab.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

MODEL_DEPLOYMENT: Final = "ModelDeployment"
MODEL_REVISION: Final = "ModelRevision"

FIELD_MANAGER: Final = "trimtab"

# Labels of every object that belongs to a ModelDeployment; the watch and every list select by them.
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_DEPLOYMENT: Final = f"{GROUP}/deployment"
LABEL_REVISION: Final = f"{GROUP}/revision"

# Written by people on a ModelDeployment; the operator reads them and never writes them.
ANNOTATION_RESUME: Final = f"{GROUP}/resume"  # "<candidate>/<step index>": go past that pause
ANNOTATION_PROMOTE: Final = f"{GROUP}/promote"  # "<candidate>": skip the steps that are left
ANNOTATION_RETRY: Final = f"{GROUP}/retry"  # any new value: try the rejected revision or the failed Job again

# Written by the operator on its own children.
ANNOTATION_APPLIED: Final = f"{GROUP}/applied"  # digest of the manifest as we last applied it
ANNOTATION_STABLE: Final = f"{GROUP}/stable-revision"  # on the main Service: who serves
ANNOTATION_CANDIDATE: Final = f"{GROUP}/candidate-revision"  # on the main Service: who is on its way in
ANNOTATION_STABLE_SINCE: Final = f"{GROUP}/stable-since"  # on a ModelRevision: when it was last promoted
ANNOTATION_RETIRED_AT: Final = f"{GROUP}/retired-at"  # on a ModelRevision: when a promotion took its traffic
ANNOTATION_BACKGROUND: Final = f"{GROUP}/background"  # on the pods of a revision: the image of its evaluation data
ANNOTATION_REJECTED: Final = f"{GROUP}/rejected"  # on a ModelRevision: JSON of revision.Rejection

# Annotation of an artifact's OCI manifest: the OptimizationResult that made it, as JSON.
ANNOTATION_RESULT: Final = f"{GROUP}.result"
