"""The REST application: routes of the Open Inference Protocol, /predict, /metrics, and what other modules add."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trimtab_runtime.dataplane import EXTENSIONS
from trimtab_runtime.protocol import plain, rest
from trimtab_runtime.protocol.errors import RequestError
from trimtab_runtime.protocol.request import InferRequest, Spent
from trimtab_runtime.server import health, pages, v1
from trimtab_runtime.server.answers import (
    HEADER_LENGTH,
    Answer,
    error_answer,
    outputs_answer,
    read_header_length,
    text_answer,
)
from trimtab_runtime.server.endpoints import Endpoints
from trimtab_runtime.server.explaining import Explaining
from trimtab_runtime.server.handling import asked_for, counted, read_body, response
from trimtab_runtime.server.metrics import Merged


def make_app(endpoints: Endpoints, inference: bool = True, explaining: Explaining | None = None) -> Starlette:
    """Return the application over models; without `inference` it has health, metadata and metrics only."""
    views = _Views(endpoints)
    routes = health.routes(endpoints, [Merged([item.metrics for item in endpoints.all])], EXTENSIONS)
    if inference:
        for model in ("/{model}", "/{model}/versions/{version}"):
            routes.append(Route(f"/v2/models{model}/infer", counted(views.infer, endpoints), methods=["POST"]))
            routes.append(Route(f"/predict{model}", counted(views.predict, endpoints), methods=["POST"]))
        routes.append(Route("/predict", counted(views.predict, endpoints), methods=["POST"]))
        explains = explaining is not None and explaining.is_there
        routes += [*v1.routes(endpoints), *pages.routes(endpoints, explains)]
        routes += explaining.routes() if explaining is not None else []
    return application(routes)


def application(routes: Sequence[Route]) -> Starlette:
    """Return an application of routes, which answers errors in the protocol's form."""
    app = Starlette(routes=routes, exception_handlers={RequestError: _refuse, HTTPException: _no_route})
    app.router.redirect_slashes = False
    return app


class _Views:
    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    async def infer(self, request: Request, spent: Spent | None) -> Response:
        endpoint = self._endpoints.find(*asked_for(request))
        body = await read_body(request, self._endpoints.intake)
        length = read_header_length(request.headers.get(HEADER_LENGTH), body)
        asked = rest.read_request(body, length, endpoint.plane.inputs)
        outputs = await endpoint.plane.infer(asked._replace(spent=spent))
        return response(outputs_answer(endpoint.writer, outputs, asked))

    async def predict(self, request: Request, spent: Spent | None) -> Response:
        plane = self._endpoints.find(*asked_for(request)).plane
        rows = plain.read_rows(await read_body(request, self._endpoints.intake), plane.inputs)
        outputs = await plane.infer(InferRequest(rows, spent=spent))
        return response(Answer(200, plain.write_predictions(plane.package, outputs)))


async def _refuse(_: Request, error: Exception) -> Response:
    return response(error_answer(error))


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = f"{request.method} {request.url.path}: {error.detail.lower()}; GET /v2 and its models are served here"
    return response(text_answer(error.status_code, text, tuple((error.headers or {}).items())))
