"""What every server tells of itself: whether it lives, whether it is ready, what it serves, and its metrics."""

from collections.abc import Sequence
from typing import Any, Protocol

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trimtab_runtime.dataplane import SERVER_NAME, SERVER_VERSION
from trimtab_runtime.server.connections import Served
from trimtab_runtime.server.handling import json_response


class Described(Served, Protocol):
    """Models that have metadata, as the Open Inference Protocol words it."""

    @property
    def names(self) -> Sequence[str]: ...

    def describe(self, name: str, version: str | None) -> dict[str, Any]:
        """Return the metadata of a model. Raises UnknownModel where it is not served."""

    async def is_up(self) -> bool:
        """Tell whether requests can be answered now."""


def routes(served: Described, collectors: Sequence[Collector], extensions: Sequence[str]) -> list[Route]:
    """Return the routes that need no inference."""
    views = _Views(served, collectors, extensions)
    found = [
        Route("/healthz", views.live),
        Route("/metrics", views.metrics),
        Route("/v2", views.server_metadata),
        Route("/v2/", views.server_metadata),
        Route("/v2/health/live", views.live),
        Route("/v2/health/ready", views.ready),
        Route("/v2/models", views.models),
    ]
    for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        found += [Route(model, views.model_metadata), Route(f"{model}/ready", views.model_ready)]
    return found


class _Views:
    def __init__(self, served: Described, collectors: Sequence[Collector], extensions: Sequence[str]) -> None:
        self._served = served
        self._collectors = collectors
        self._extensions = extensions

    async def live(self, _: Request) -> Response:
        return json_response({"live": True})

    async def ready(self, _: Request) -> Response:
        ready = await self._served.is_up()
        return json_response({"ready": ready}, 200 if ready else 503)

    async def metrics(self, _: Request) -> Response:
        content = b"".join(generate_latest(collector) for collector in self._collectors)
        return Response(content, media_type=CONTENT_TYPE_LATEST)

    async def server_metadata(self, _: Request) -> Response:
        return json_response({"name": SERVER_NAME, "version": SERVER_VERSION, "extensions": self._extensions})

    async def models(self, _: Request) -> Response:
        """Answer as KServe's servers do: the standard has no way to ask what there is."""
        return json_response({"models": list(self._served.names)})

    async def model_metadata(self, request: Request) -> Response:
        return json_response(self._described(request))

    async def model_ready(self, request: Request) -> Response:
        name, ready = self._described(request)["name"], await self._served.is_up()
        return json_response({"name": name, "ready": ready}, 200 if ready else 503)

    def _described(self, request: Request) -> dict[str, Any]:
        return self._served.describe(request.path_params["model"], request.path_params.get("version"))
