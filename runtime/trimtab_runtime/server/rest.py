"""The REST application: routes of the Open Inference Protocol, /predict, /metrics."""

from typing import Any

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trimtab_runtime.dataplane import EXTENSIONS, SERVER_NAME, SERVER_VERSION, DataPlane
from trimtab_runtime.protocol import plain, rest
from trimtab_runtime.protocol.errors import BadRequest, RequestError, TooLarge, UnknownModel
from trimtab_runtime.server.metrics import ServerMetrics

_MAX_BODY = 64 << 20
_JSON = "application/json"
_HEADER_LENGTH = "inference-header-content-length"


def make_app(plane: DataPlane, metrics: ServerMetrics) -> Starlette:
    """Return the application over a data plane."""
    handlers = _Handlers(plane, metrics)
    model = "/v2/models/{model}"
    routes = [
        Route("/healthz", handlers.live),
        Route("/metrics", handlers.metrics),
        Route("/predict", handlers.predict, methods=["POST"]),
        Route("/v2", handlers.server_metadata),
        Route("/v2/", handlers.server_metadata),
        Route("/v2/health/live", handlers.live),
        Route("/v2/health/ready", handlers.ready),
    ]
    for prefix in (model, f"{model}/versions/{{version}}"):
        routes += [
            Route(prefix, handlers.model_metadata),
            Route(f"{prefix}/ready", handlers.model_ready),
            Route(f"{prefix}/infer", handlers.infer, methods=["POST"]),
        ]
    return Starlette(routes=routes, exception_handlers={RequestError: _refuse})


class _Handlers:
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
        content = {"name": self._plane.name, "ready": self._plane.ready}
        return _answer(content, 200 if self._plane.ready else 503)

    async def infer(self, request: Request) -> Response:
        with self._metrics.request("rest") as outcome:
            try:
                response = await self._infer(request)
            except RequestError as error:
                response = await _refuse(request, error)
            outcome.code = str(response.status_code)
            return response

    async def predict(self, request: Request) -> Response:
        with self._metrics.request("rest") as outcome:
            try:
                response = await self._predict(request)
            except RequestError as error:
                response = await _refuse(request, error)
            outcome.code = str(response.status_code)
            return response

    async def _infer(self, request: Request) -> Response:
        self._find(request)
        body = await _body(request)
        asked = rest.read_request(body, _header_length(request, body), self._plane.package.inputs)
        outputs = await self._plane.infer(asked)
        content, length = rest.write_response(self._plane.name, self._plane.version, outputs, asked)
        if length is None:
            return Response(content, media_type=_JSON)
        return Response(content, media_type="application/octet-stream", headers={_HEADER_LENGTH: str(length)})

    async def _predict(self, request: Request) -> Response:
        rows = plain.read_rows(await _body(request), self._plane.package.inputs)
        outputs = await self._plane.infer(rest.InferRequest(rows))
        return Response(plain.write_predictions(self._plane.package, outputs), media_type=_JSON)

    def _find(self, request: Request) -> None:
        self._plane.find(request.path_params["model"], request.path_params.get("version"))


async def _body(request: Request) -> bytes:
    """Read the body, and stop as soon as it is clear that it is too large."""
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > _MAX_BODY:
        raise TooLarge(f"the body has {announced} bytes; at most {_MAX_BODY} are taken")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > _MAX_BODY:
            raise TooLarge(f"the body has more than {_MAX_BODY} bytes")
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
    headers = {"retry-after": "1"} if error.status == 503 else None
    status = 404 if isinstance(error, UnknownModel) else error.status
    return Response(orjson.dumps({"error": str(error)}), status, headers, _JSON)


def _answer(content: dict[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type=_JSON)
