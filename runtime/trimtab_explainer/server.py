"""The explainer's REST server: one explanation after the other, in a thread, and few that wait."""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trimtab_explainer.answers import Facts, listed, read_asked, tensors
from trimtab_explainer.background import read_background
from trimtab_explainer.config import ExplainerConfig
from trimtab_explainer.explain import Asked, Explainer, Explanation, Limit
from trimtab_runtime.intake import Intake
from trimtab_runtime.logs import say
from trimtab_runtime.model.cpus import available_cpus
from trimtab_runtime.model.session import load_model
from trimtab_runtime.protocol import plain, rest, v1
from trimtab_runtime.protocol.errors import BadRequest, Busy, UnknownModel
from trimtab_runtime.protocol.inputs import Inputs
from trimtab_runtime.protocol.tensors import Array
from trimtab_runtime.server.answers import HEADER_LENGTH, Answer, error_answer, read_header_length, text_answer
from trimtab_runtime.server.handling import json_response, read_body, response

_MOST_WAITING: Final = 8
_LOOK_SECONDS: Final = 0.5  # whether the caller is still there
_MOST_ON_THEIR_WAY: Final = 256 << 20  # bytes of requests

Handler = Callable[[Request], Awaitable[Response]]


async def serve(config: ExplainerConfig) -> None:
    """Serve until SIGTERM. Raises InvalidPackage and InvalidData where model or background are of no use."""
    model = load_model(config.model_dir, config.threads or available_cpus())
    explainer = Explainer(model, read_background(config.background, model.package, config.background_rows))
    app = make_app(explainer, config)
    made = uvicorn.Config(app, config.host, config.port, lifespan="off", log_config=None, access_log=False)
    await _Server(made, config.descriptor).serve()
    say("explainer stopped")


class _Server(uvicorn.Server):
    """uvicorn that tells its port, in the log and to who started it."""

    def __init__(self, config: uvicorn.Config, descriptor: int | None) -> None:
        super().__init__(config)
        self._descriptor = descriptor

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        say("explaining", port=port, pid=os.getpid())
        if self._descriptor is not None:
            with os.fdopen(self._descriptor, "w") as pipe:
                pipe.write(str(port))

    def handle_exit(self, sig: int, frame: Any) -> None:
        """End without the signal being raised again: a container that was told to end has not failed."""
        self.should_exit = True


def make_app(explainer: Explainer, config: ExplainerConfig) -> Starlette:
    """Return the application over an explainer."""
    views = _Views(explainer, config)
    routes = [Route("/healthz", views.live), _post("/explain", views.explain)]
    for version in ("", "/versions/{version}"):
        routes.append(_post("/v2/models/{model}" + version + "/explain", views.explain_tensors))
        routes.append(_post("/v1/models/{model}" + version + ":explain", views.explain_instances))
    return Starlette(routes=routes, exception_handlers={HTTPException: _no_route})


class _Views:
    def __init__(self, explainer: Explainer, config: ExplainerConfig) -> None:
        self._explainer = explainer
        self._config = config
        self._name = config.model_name or explainer.package.name
        self._inputs = Inputs(explainer.package.inputs)
        self._thread = ThreadPoolExecutor(1, "explaining")
        self._waiting = 0
        self._intake = Intake(_MOST_ON_THEIR_WAY)

    async def live(self, _: Request) -> Response:
        return json_response({"live": True})

    async def explain(self, request: Request) -> Response:
        body = await read_body(request, self._intake)
        asked = read_asked(request.query_params, self._config)
        return await self._listed(request, plain.read_rows(body, self._inputs), asked)

    async def explain_instances(self, request: Request) -> Response:
        self._find(request)
        body = await read_body(request, self._intake)
        asked = read_asked(request.query_params, self._config)
        return await self._listed(request, v1.read_request(body, self._inputs)[0], asked)

    async def explain_tensors(self, request: Request) -> Response:
        self._find(request)
        body = await read_body(request, self._intake)
        length = read_header_length(request.headers.get(HEADER_LENGTH), body)
        given = rest.read_request(body, length, self._inputs)
        asked = read_asked({**request.query_params, **_parameters(body[:length])}, self._config)
        found, facts = await self._run(request, given.feeds, asked)
        return response(Answer(200, tensors(self._name, self._config.revision, given.id, found, asked, facts)))

    async def _listed(self, request: Request, feeds: Mapping[str, Array], asked: Asked) -> Response:
        found, facts = await self._run(request, feeds, asked)
        return response(Answer(200, listed(found, asked, facts)))

    async def _run(self, request: Request, feeds: Mapping[str, Array], asked: Asked) -> tuple[list[Explanation], Facts]:
        """Explain in the thread, when those before have been; the time runs from now."""
        rows = len(next(iter(feeds.values())))
        if rows > self._config.most_rows:
            raise BadRequest(f"{rows} rows are too many to explain at once; send at most {self._config.most_rows}")
        if self._waiting >= _MOST_WAITING:
            raise Busy(f"{self._waiting} explanations wait already; try again later", self._config.most_seconds)
        began, left = self._explainer.clock(), threading.Event()
        limit = Limit(began + asked.seconds, left.is_set)
        self._waiting += 1
        try:
            explaining = asyncio.get_running_loop().run_in_executor(
                self._thread, self._explainer.explain, feeds, asked, limit
            )
            while not (await asyncio.wait({explaining}, timeout=_LOOK_SECONDS))[0]:
                if await request.is_disconnected():
                    left.set()
            return await explaining, Facts(rows, self._explainer.clock() - began)
        finally:
            self._waiting -= 1

    def _find(self, request: Request) -> None:
        name, version = request.path_params["model"], request.path_params.get("version")
        if name != self._name or version not in (None, self._config.revision):
            raise UnknownModel(
                f"there is no such model; {self._name} version {self._config.revision} is explained here"
            )


def _parameters(body: bytes) -> dict[str, Any]:
    content = rest.read_json(body) if body else {}
    found = content.get("parameters")
    return found if isinstance(found, dict) else {}


def _post(path: str, handler: Handler) -> Route:
    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except Exception as error:
            return response(error_answer(error))

    return Route(path, handle, methods=["POST"])


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = f"{request.method} {request.url.path}: {error.detail.lower()}; POST /explain is served here"
    return response(text_answer(error.status_code, text))
