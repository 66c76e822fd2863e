"""The REST application: routes of the Open Inference Protocol, /predict, /metrics."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from trimtab_runtime.dataplane import EXTENSIONS, SERVER_NAME, SERVER_VERSION, DataPlane
from trimtab_runtime.protocol import plain, rest
from trimtab_runtime.protocol.errors import BadRequest, Busy, RequestError, TooLarge
from trimtab_runtime.protocol.request import InferRequest
from trimtab_runtime.server.logs import complain
from trimtab_runtime.server.metrics import ServerMetrics

MAX_BODY: Final = 64 << 20
_JSON: Final = "application/json"
_HEADER_LENGTH: Final = "inference-header-content-length"
_CLIENT_LEFT: Final = 499
_Handler = Callable[[Request], Awaitable[Response]]


def make_app(plane: DataPlane, metrics: ServerMetrics, inference: bool = True) -> Starlette:
    """Return the application over a data plane; without `inference` it has health, metadata and metrics only."""
    views = _Views(plane, metrics)
    routes = [
        Route("/healthz", views.live),
        Route("/metrics", views.metrics),
        Route("/v2", views.server_metadata),
        Route("/v2/", views.server_metadata),
        Route("/v2/health/live", views.live),
        Route("/v2/health/ready", views.ready),
    ]
    for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        routes += [Route(model, views.model_metadata), Route(f"{model}/ready", views.model_ready)]
        if inference:
            routes.append(Route(f"{model}/infer", _counted(views.infer, metrics), methods=["POST"]))
    if inference:
        routes.append(Route("/predict", _counted(views.predict, metrics), methods=["POST"]))
    app = Starlette(routes=routes, exception_handlers={RequestError: _refuse, HTTPException: _no_route})
    app.router.redirect_slashes = False
    return app


class _Views:
    def __init__(self, plane: DataPlane, metrics: ServerMetrics) -> None:
        self._plane = plane
        self._metrics = metrics

    async def live(self, _: Request) -> Response:
        return _answer({"live": True})

    async def ready(self, _: Request) -> Response:
        return _answer({"ready": self._plane.ready}, 200 if self._plane.ready else 503)

    async def metrics(self, _: Request) -> Response:
        return Response(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def server_metadata(self, _: Request) -> Response:
        return _answer({"name": SERVER_NAME, "version": SERVER_VERSION, "extensions": EXTENSIONS})

    async def model_metadata(self, request: Request) -> Response:
        self._find(request)
        return _answer(self._plane.metadata())

    async def model_ready(self, request: Request) -> Response:
        self._find(request)
        return _answer({"name": self._plane.name, "ready": self._plane.ready}, 200 if self._plane.ready else 503)

    async def infer(self, request: Request) -> Response:
        self._find(request)
        body = await _body(request)
        asked = rest.read_request(body, _header_length(request, body), self._plane.package.inputs)
        outputs = await self._plane.infer(asked)
        content, length = rest.write_response(self._plane.name, self._plane.version, outputs, asked)
        if length is None:
            return Response(content, media_type=_JSON)
        return Response(content, media_type="application/octet-stream", headers={_HEADER_LENGTH: str(length)})

    async def predict(self, request: Request) -> Response:
        rows = plain.read_rows(await _body(request), self._plane.package.inputs)
        outputs = await self._plane.infer(InferRequest(rows))
        return Response(plain.write_predictions(self._plane.package, outputs), media_type=_JSON)

    def _find(self, request: Request) -> None:
        self._plane.find(request.path_params["model"], request.path_params.get("version"))


def _counted(handler: _Handler, metrics: ServerMetrics) -> _Handler:
    """Wrap an inference handler: whatever happens becomes an answer, and is counted."""

    async def handle(request: Request) -> Response:
        with metrics.request("rest", unless_told="500") as outcome:
            response = await _settled(handler, request)
            outcome.code = str(response.status_code)
            return response

    return handle


async def _settled(handler: _Handler, request: Request) -> Response:
    try:
        return await handler(request)
    except RequestError as error:
        if error.__cause__ is not None and error.status == 500:
            complain("inference failed", error.__cause__)
        return await _refuse(request, error)
    except ClientDisconnect:
        return Response(status_code=_CLIENT_LEFT)
    except Exception as error:
        complain("a request failed", error)
        return _error("internal error; the server's log has the cause", 500)


async def _body(request: Request) -> bytes:
    """Read the body, and stop as soon as it is clear that it is too large."""
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > MAX_BODY:
        raise TooLarge(f"the body has {announced} bytes; at most {MAX_BODY} are taken")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise TooLarge(f"the body has more than {MAX_BODY} bytes")
        parts.append(part)
    return b"".join(parts)


def _header_length(request: Request, body: bytes) -> int | None:
    text = request.headers.get(_HEADER_LENGTH)
    if text is None:
        return None
    if not text.isdigit() or int(text) > len(body):
        raise BadRequest(f"Inference-Header-Content-Length is {text}, but the body has {len(body)} bytes")
    return int(text)


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    headers = {"retry-after": "1"} if isinstance(error, Busy) else None
    return _error(str(error), error.status, headers)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = f"{request.method} {request.url.path}: {error.detail.lower()}; GET /v2 and its models are served here"
    return _error(text, error.status_code, dict(error.headers or {}))


def _error(text: str, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps({"error": text}), status, headers, _JSON)


def _answer(content: dict[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type=_JSON)
