"""Is there an artifact of this plan already? Asked without credentials: where the answer is no, the Job finds out.

The operator never reads a Secret, so a private registry tells it nothing; a Job for a known plan then ends in seconds.
"""

import re
from collections.abc import Mapping

import httpx
from pydantic import ValidationError

from trimtab_api.group import ANNOTATION_RESULT
from trimtab_api.plan import Plan, tag_of
from trimtab_api.report import OptimizationResult

_SECONDS = 5.0
_URI = re.compile(
    r"^oci://(?P<host>[^/]+)/(?P<repository>[^@:]+)(:(?P<tag>[^@]+))?(@(?P<digest>sha256:[0-9a-f]{64}))?$"
)
_TYPES = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"


class RegistryProbe:
    """Implements controller.observe.Registry by pulling manifests (OCI distribution spec 1.1)."""

    def __init__(self, http: httpx.AsyncClient, repository: str, insecure: tuple[str, ...]) -> None:
        self._http = http
        self._repository = repository
        self._insecure = insecure

    async def find(self, plan: Plan) -> OptimizationResult | None:
        """Return the result stored beside the artifact of a plan, if a registry gives it to anybody."""
        try:
            resolved = await self._resolve(plan)
            if resolved is None:
                return None
            host, _, repository = self._repository.partition("/")
            answer = await self._manifest(host, repository, tag_of(plan.key(resolved), "plan"))
        except httpx.HTTPError:
            return None
        return _read_result(answer) if answer is not None else None

    async def _resolve(self, plan: Plan) -> Mapping[str, str] | None:
        found = {}
        for uri in plan.uris():
            digest = await self._digest(uri)
            if digest is None:
                return None
            found[uri] = digest
        return found

    async def _digest(self, uri: str) -> str | None:
        parts = _URI.match(uri)
        if parts is None:
            return None
        if parts["digest"]:
            return str(parts["digest"])
        answer = await self._manifest(parts["host"], parts["repository"], parts["tag"] or "latest")
        return answer.headers.get("docker-content-digest") if answer is not None else None

    async def _manifest(self, host: str, repository: str, reference: str) -> httpx.Response | None:
        scheme = "http" if host in self._insecure else "https"
        url = f"{scheme}://{host}/v2/{repository}/manifests/{reference}"
        answer = await self._http.get(url, headers={"Accept": _TYPES}, timeout=_SECONDS)
        return answer if answer.status_code == httpx.codes.OK else None


def _read_result(answer: httpx.Response) -> OptimizationResult | None:
    """Read the result that the Job left as an annotation of the plan's tag; it names the artifact by digest."""
    try:
        return OptimizationResult.model_validate_json(answer.json()["annotations"][ANNOTATION_RESULT])
    except (KeyError, TypeError, ValueError, ValidationError):
        return None
