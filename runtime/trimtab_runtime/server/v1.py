"""Routes of TensorFlow Serving's REST API, which KServe's version 1 shares: for clients that speak nothing newer."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trimtab_runtime.dataplane import DataPlane
from trimtab_runtime.protocol import v1
from trimtab_runtime.protocol.request import InferRequest, Spent
from trimtab_runtime.server.answers import Answer
from trimtab_runtime.server.endpoints import Endpoints
from trimtab_runtime.server.handling import asked_for, counted, json_response, read_body, response


def routes(endpoints: Endpoints) -> list[Route]:
    """Return the routes of models, with and without their versions."""
    views = _Views(endpoints)
    found = [Route("/v1/models", views.models)]
    for model in ("/v1/models/{model}", "/v1/models/{model}/versions/{version}"):
        found += [
            Route(f"{model}:predict", counted(views.predict, endpoints), methods=["POST"]),
            Route(f"{model}/metadata", views.metadata),
            Route(model, views.status),
        ]
    return found


class _Views:
    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    async def models(self, _: Request) -> Response:
        return json_response({"models": self._endpoints.names})

    async def status(self, request: Request) -> Response:
        """Answer as both have it: KServe looks at `ready`, TensorFlow Serving's clients at the state."""
        plane, ready = self._find(request), self._endpoints.ready
        asked = request.path_params.get("version")
        state = {
            "state": "AVAILABLE" if ready else "UNLOADING",
            "status": {"error_code": "OK", "error_message": ""},
        }
        states = [
            {"version": version, **state} for version in ([asked] if asked else self._endpoints.versions(plane.name))
        ]
        content = {"name": plane.name, "ready": ready, "model_version_status": states}
        return json_response(content, 200 if ready else 503)

    async def metadata(self, request: Request) -> Response:
        plane = self._find(request)
        return json_response(v1.metadata(plane.name, plane.version, plane.package.inputs, plane.package.outputs))

    async def predict(self, request: Request, spent: Spent | None) -> Response:
        plane = self._find(request)
        feeds, is_rows = v1.read_request(await read_body(request, self._endpoints.intake), plane.inputs)
        outputs = await plane.infer(InferRequest(feeds, spent=spent))
        return response(Answer(200, v1.write_response(outputs, is_rows)))

    def _find(self, request: Request) -> DataPlane:
        return self._endpoints.find(*asked_for(request)).plane
