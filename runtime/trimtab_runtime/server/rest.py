"""The REST application: routes of the Open Inference Protocol, /predict, /metrics, and what other modules add."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trimtab_runtime.dataplane import EXTENSIONS, DataPlane
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
    writer_of,
)
from trimtab_runtime.server.explaining import Explaining
from trimtab_runtime.server.handling import counted, read_body, response
from trimtab_runtime.server.metrics import ServerMetrics


def make_app(
    plane: DataPlane, metrics: ServerMetrics, inference: bool = True, explaining: Explaining | None = None
) -> Starlette:
    """Return the application over a data plane; without `inference` it has health, metadata and metrics only."""
    views = _Views(plane)
    routes = health.routes(plane, [metrics], EXTENSIONS)
    if inference:
        for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            routes.append(Route(f"{model}/infer", counted(views.infer, metrics), methods=["POST"]))
        routes.append(Route("/predict", counted(views.predict, metrics), methods=["POST"]))
        explains = explaining is not None and explaining.is_there
        routes += [*v1.routes(plane, metrics), *pages.routes(plane, explains)]
        routes += explaining.routes() if explaining is not None else []
    return application(routes)


def application(routes: Sequence[Route]) -> Starlette:
    """Return an application of routes, which answers errors in the protocol's form."""
    app = Starlette(routes=routes, exception_handlers={RequestError: _refuse, HTTPException: _no_route})
    app.router.redirect_slashes = False
    return app


class _Views:
    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._writer = writer_of(plane)

    async def infer(self, request: Request, spent: Spent | None) -> Response:
        self._find(request)
        body = await read_body(request, self._plane.intake)
        asked = rest.read_request(
            body, read_header_length(request.headers.get(HEADER_LENGTH), body), self._plane.inputs
        )
        outputs = await self._plane.infer(asked._replace(spent=spent))
        return response(outputs_answer(self._writer, outputs, asked))

    async def predict(self, request: Request, spent: Spent | None) -> Response:
        rows = plain.read_rows(await read_body(request, self._plane.intake), self._plane.inputs)
        outputs = await self._plane.infer(InferRequest(rows, spent=spent))
        return response(Answer(200, plain.write_predictions(self._plane.package, outputs)))

    def _find(self, request: Request) -> None:
        self._plane.find(request.path_params["model"], request.path_params.get("version"))


async def _refuse(_: Request, error: Exception) -> Response:
    return response(error_answer(error))


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = f"{request.method} {request.url.path}: {error.detail.lower()}; GET /v2 and its models are served here"
    return response(text_answer(error.status_code, text, tuple((error.headers or {}).items())))
