"""For a person: a page to talk to the model in a browser, and the OpenAPI document."""

from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trimtab_runtime.dataplane import SERVER_VERSION
from trimtab_runtime.server.generative.plane import GenerativePlane
from trimtab_runtime.server.generative.requests import Chat, Completion, Generate
from trimtab_runtime.server.handling import json_response
from trimtab_runtime.server.pages import page_route

_PAGE: Final = Path(__file__).with_name("chat.html")
_REFERENCES: Final = "#/components/schemas/{model}"


def routes(plane: GenerativePlane) -> list[Route]:
    """Return the routes of page and document."""

    async def openapi(_: Request) -> Response:
        return json_response(_document(plane))

    return [Route("/openapi.json", openapi), page_route(_PAGE)]


def _document(plane: GenerativePlane) -> dict[str, Any]:
    """Return what is taken, in OpenAPI 3.1: the schemas are those that requests are checked by."""
    calls: dict[str, type[BaseModel]] = {
        "/v1/completions": Completion,
        "/v1/chat/completions": Chat,
        f"/v2/models/{plane.name}/generate": Generate,
        f"/v2/models/{plane.name}/generate_stream": Generate,
    }
    schemas: dict[str, Any] = {}
    for kind in dict.fromkeys(calls.values()):
        schema = kind.model_json_schema(ref_template=_REFERENCES)
        schemas |= schema.pop("$defs", {}) | {kind.__name__: schema}
    return {
        "openapi": "3.1.0",
        "info": {"title": plane.name, "version": SERVER_VERSION},
        "paths": {path: {"post": _call(path, kind)} for path, kind in calls.items()},
        "components": {"schemas": schemas},
    }


def _call(path: str, kind: type[BaseModel]) -> dict[str, Any]:
    asked = {"schema": {"$ref": _REFERENCES.format(model=kind.__name__)}}
    answers = {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {"schema": {"type": "string"}}}
    return {
        "operationId": path.strip("/").replace("/", "_"),
        "requestBody": {"required": True, "content": {"application/json": asked}},
        "responses": {"200": {"description": "the answer, whole or as events", "content": answers}},
    }
