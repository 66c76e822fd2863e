"""Another engine behind our probes, metrics and drain: vLLM, or what else speaks OpenAI's API, in a container beside.

Requests go on to it as they are, and answers come back as they come. It is asked whether it is ready whenever we are.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any, Final

import httpx
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from trimtab_api.errors import InvalidSpec
from trimtab_runtime.config import RuntimeConfig
from trimtab_runtime.intake import Intake
from trimtab_runtime.logs import say
from trimtab_runtime.protocol.errors import Busy, RequestError, UnknownModel
from trimtab_runtime.server import health
from trimtab_runtime.server.connections import BoundedConnections, TimedProtocol
from trimtab_runtime.server.draining import DrainingServer, certificates_of, rest_config
from trimtab_runtime.server.generative.plane import described, find
from trimtab_runtime.server.generative.routes import openai_error
from trimtab_runtime.server.generative.streams import Handler, Lasting, lasting_route
from trimtab_runtime.server.handling import read_body
from trimtab_runtime.server.metrics import ServerMetrics
from trimtab_runtime.server.place import Place
from trimtab_runtime.server.rest import application
from trimtab_runtime.server.tracing import close_soon, open_tracing

_PLATFORM: Final = "openai"
_CONNECT_SECONDS: Final = 5.0  # that an answer may take, the engine knows itself
_PROBE_SECONDS: Final = 3.0
_LOOK_SECONDS: Final = 0.5  # whether the caller is still there
_AGAIN_SECONDS: Final = 1.0
_OF_A_CONNECTION: Final = frozenset(  # headers that are not passed on (RFC 9110, 7.6.1), and lengths, which change
    (
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"),
        *("transfer-encoding", "upgrade", "content-length", "host", "date", "server"),
    )
)


class Front:
    """An engine at a URL, under our name and version. `ready` turns false when the process begins to drain."""

    def __init__(self, name: str, version: str, http: httpx.AsyncClient, probe: str, intake: Intake) -> None:
        self.name: Final = name
        self.version: Final = version
        self.ready = True
        self._http = http
        self._probe = probe
        self._intake = intake

    async def is_up(self) -> bool:
        """Ask the engine whether it is ready."""
        if not self.ready:
            return False
        with suppress(httpx.HTTPError):
            return (await self._http.get(self._probe, timeout=_PROBE_SECONDS)).is_success
        return False

    @property
    def names(self) -> list[str]:
        """Return the name of the model."""
        return [self.name]

    def describe(self, name: str, version: str | None) -> dict[str, Any]:
        """Return the metadata of the model. Raises UnknownModel for another."""
        find(self, name, version)
        return described(self.name, self.version, _PLATFORM)

    async def relay(self, request: Request) -> Response:
        """Pass a request on. Raises Busy where the engine does not answer."""
        body = await read_body(request, self._intake)
        headers = {name: value for name, value in request.headers.items() if name not in _OF_A_CONNECTION}
        asked = self._http.build_request(request.method, self._url(request), content=body, headers=headers)
        return Relayed(await self._answer(request, asked))

    def _url(self, request: Request) -> httpx.URL:
        """Return where a request goes: to a path below /v1/, whatever segments say. Raises UnknownModel."""
        path: bytes = request.scope["raw_path"]
        query = request.url.query.encode()
        url = self._http.base_url.copy_with(raw_path=path + (b"?" + query if query else b""))
        segments = request.url.path.split("/")
        if "." in segments or ".." in segments or not url.raw_path.startswith(b"/v1/"):
            raise UnknownModel("only what lies below /v1/ is served here")
        return url

    async def _answer(self, request: Request, asked: httpx.Request) -> httpx.Response:
        """Wait for the head of the answer, as long as the caller does."""
        sending = asyncio.create_task(self._http.send(asked, stream=True))
        try:
            while not (await asyncio.wait({sending}, timeout=_LOOK_SECONDS))[0]:
                if await request.is_disconnected():
                    raise ClientDisconnect
            return await sending
        except httpx.HTTPError as error:
            raise Busy(f"the engine does not answer ({type(error).__name__}); try again", _AGAIN_SECONDS) from error
        finally:
            sending.cancel()


class Relayed(Lasting):
    """An engine's answer, passed on as it comes; the engine is told where nobody wants more."""

    def __init__(self, answer: httpx.Response) -> None:
        kept = {name: value for name, value in answer.headers.items() if name not in _OF_A_CONNECTION}
        super().__init__(self._passed_on(answer), answer.status_code, kept)

    async def _passed_on(self, answer: httpx.Response) -> AsyncIterator[bytes]:
        try:
            async for part in answer.aiter_raw():
                yield part
            self.code = str(answer.status_code)
        except httpx.HTTPError:
            self.code = "500"  # its head is sent: all that can be told is that the rest does not come
            raise
        finally:
            await answer.aclose()


async def serve_front(config: RuntimeConfig, place: Place) -> None:
    """Serve until SIGTERM and a drain. Raises InvalidSpec for settings that do not fit."""
    if config.engine is None or config.model_name is None or config.workers > 1:
        raise InvalidSpec("with TRIMTAB_ENGINE, TRIMTAB_MODEL_NAME has to be set, and TRIMTAB_WORKERS to 1")
    tracing = open_tracing(config, config.model_name)
    metrics = ServerMetrics(config.model_name, config.revision, place.tallies[0], place.process, tracing)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    timeout = httpx.Timeout(None, connect=_CONNECT_SECONDS)
    async with httpx.AsyncClient(base_url=config.engine, limits=limits, timeout=timeout, trust_env=False) as http:
        intake = Intake(config.intake_bytes, metrics.intake_cell)
        front = Front(config.model_name, config.revision, http, config.engine_probe, intake)
        certificates = certificates_of(config)
        app = BoundedConnections(_app(front, metrics), front, config.max_connection_age_seconds)
        protocol = partial(TimedProtocol, reading_seconds=config.read_timeout_seconds)
        metrics.started()
        say("standing before", engine=config.engine, probe=config.engine_probe)
        rest = rest_config(config, app, protocol, certificates)
        await DrainingServer(rest, front, None, config.drain_seconds, certificates).serve()
    if tracing is not None:
        await close_soon(tracing)
    say("stopped", model=config.model_name, revision=config.revision)


def _app(front: Front, metrics: ServerMetrics) -> Starlette:
    relays = lasting_route("/v1/{path:path}", ["POST"], front.relay, metrics, openai_error)
    found = [*health.routes(front, [metrics], ()), relays, Route("/v1/{path:path}", _shown(front))]
    return application(found)


def _shown(front: Front) -> Handler:
    """Return what passes on requests that ask for no inference, which are not counted."""

    async def show(request: Request) -> Response:
        try:
            return await front.relay(request)
        except RequestError as error:
            return openai_error(error)

    return show
