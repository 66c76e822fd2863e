"""Routes of TensorFlow Serving's REST API, which KServe's version 1 shares: for clients that speak nothing newer."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trimtab_runtime.dataplane import DataPlane
from trimtab_runtime.protocol import v1
from trimtab_runtime.protocol.request import InferRequest, Spent
from trimtab_runtime.server.answers import Answer
from trimtab_runtime.server.handling import counted, json_response, read_body, response
from trimtab_runtime.server.metrics import ServerMetrics


def routes(plane: DataPlane, metrics: ServerMetrics) -> list[Route]:
    """Return the routes of a model, with and without its version."""
    views = _Views(plane)
    found = [Route("/v1/models", views.models)]
    for model in ("/v1/models/{model}", "/v1/models/{model}/versions/{version}"):
        found += [
            Route(f"{model}:predict", counted(views.predict, metrics), methods=["POST"]),
            Route(f"{model}/metadata", views.metadata),
            Route(model, views.status),
        ]
    return found


class _Views:
    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def models(self, _: Request) -> Response:
        return json_response({"models": [self._plane.name]})

    async def status(self, request: Request) -> Response:
        """Answer as both have it: KServe looks at `ready`, TensorFlow Serving's clients at the state."""
        self._find(request)
        ready = self._plane.ready
        state = {
            "version": self._plane.version,
            "state": "AVAILABLE" if ready else "UNLOADING",
            "status": {"error_code": "OK", "error_message": ""},
        }
        content = {"name": self._plane.name, "ready": ready, "model_version_status": [state]}
        return json_response(content, 200 if ready else 503)

    async def metadata(self, request: Request) -> Response:
        self._find(request)
        package = self._plane.package
        return json_response(v1.metadata(self._plane.name, self._plane.version, package.inputs, package.outputs))

    async def predict(self, request: Request, spent: Spent | None) -> Response:
        self._find(request)
        feeds, is_rows = v1.read_request(await read_body(request, self._plane.intake), self._plane.inputs)
        outputs = await self._plane.infer(InferRequest(feeds, spent=spent))
        return response(Answer(200, v1.write_response(outputs, is_rows)))

    def _find(self, request: Request) -> None:
        self._plane.find(request.path_params["model"], request.path_params.get("version"))
