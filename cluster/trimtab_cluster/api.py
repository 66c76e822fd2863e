"""The few requests that bringing up a cluster needs, as its administrator."""

import http.client
import json
import ssl
from contextlib import closing
from pathlib import Path
from typing import Any


class Api:
    """A client of one API server, with the administrator's certificate."""

    def __init__(self, etc: Path, node: str) -> None:
        self._node = node
        self._trust = ssl.create_default_context(cafile=str(etc / "ca.crt"))
        self._trust.load_cert_chain(str(etc / "admin.crt"), str(etc / "admin.key"))

    def is_ready(self) -> bool:
        """Tell whether the API server answers and is ready."""
        return self._request("GET", "/readyz")[0] == 200

    def node_is_ready(self, name: str) -> bool:
        """Tell whether a node is there and Ready."""
        status, node = self._request("GET", f"/api/v1/nodes/{name}")
        conditions = node.get("status", {}).get("conditions", []) if status == 200 else []
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)

    def exists(self, path: str) -> bool:
        """Tell whether there is a resource at a path."""
        return self._request("GET", path)[0] == 200

    def apply(self, path: str, resource: dict[str, Any]) -> bool:
        """Create or update a resource by server-side apply; tell whether that was accepted."""
        status, _ = self._request("PATCH", f"{path}?fieldManager=trimtab-cluster&force=true", resource)
        return status in (200, 201)

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Return status and document; status 0 while nobody answers."""
        headers = {"Content-Type": "application/apply-patch+yaml"} if body else {}
        with closing(http.client.HTTPSConnection(self._node, 6443, timeout=5, context=self._trust)) as connection:
            try:
                connection.request(method, path, json.dumps(body) if body else None, headers)
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException):
                return 0, {}
        is_json = "json" in (answer.headers["Content-Type"] or "")
        return answer.status, json.loads(text) if is_json else {}
