"""For a person: the OpenAPI document, and a page to try the model in a browser."""

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trimtab_runtime.server.endpoints import Endpoints
from trimtab_runtime.server.handling import json_response
from trimtab_runtime.server.openapi import document

# The page has its own script and style and nothing from elsewhere; no other page may show it.
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "connect-src 'self'",
        "style-src 'unsafe-inline'",
        "script-src 'unsafe-inline'",
        "frame-ancestors 'none'",
    )
)
_PAGE: Final = Path(__file__).with_name("page.html")


def routes(endpoints: Endpoints, explains: bool) -> list[Route]:
    """Return the routes of the pages."""

    async def openapi(_: Request) -> Response:
        return json_response(document(endpoints, explains))

    return [Route("/openapi.json", openapi), page_route(_PAGE)]


def page_route(file: Path) -> Route:
    """Return the route of a page for people; KServe's clients ask there whether we live."""

    async def page(request: Request) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            return json_response({"status": "alive"})
        return Response(file.read_bytes(), media_type="text/html", headers={"content-security-policy": _POLICY})

    return Route("/", page)
