"""Answers as they are made: events of a stream (text/event-stream), or whole."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from trimtab_runtime.logs import complain
from trimtab_runtime.protocol.errors import RequestError
from trimtab_runtime.server.answers import CLIENT_LEFT
from trimtab_runtime.server.generative.forms import Choice
from trimtab_runtime.server.generative.plane import Answers
from trimtab_runtime.server.metrics import ServerMetrics
from trimtab_runtime.server.tracing import TRACE_PARENT

_LOOK_SECONDS: Final = 0.5  # whether the caller is still there
_HEADERS: Final = {  # proxies have to pass events on at once
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}

Ended = Callable[[str], None]
Handler = Callable[[Request], Awaitable[Response]]
Refuse = Callable[[Exception], Response]


class Lasting(StreamingResponse):
    """An answer that lasts. `ended` is called with the code under which the call counts, when its last byte is sent."""

    def __init__(self, content: AsyncIterator[bytes], status: int, headers: Mapping[str, str]) -> None:
        super().__init__(content, status, headers)
        self.ended: Ended = lambda code: None
        self.code = str(CLIENT_LEFT)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.ended(self.code)


class Stream(Lasting):
    """Events of answers."""

    def __init__(self, events: AsyncIterator[bytes], answers: Answers) -> None:
        super().__init__(self._watched(events), HTTPStatus.OK, _HEADERS)
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answers.leave()

    async def _watched(self, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Pass events on, and an error as the last one: the status was sent before anything could go wrong."""
        try:
            async for event in events:
                yield event
            self.code = "200"
        except Exception as error:
            self.code = "500"
            if not isinstance(error, RequestError):
                complain("a stream failed", error)
            yield failed_event(
                str(error) if isinstance(error, RequestError) else "internal error; see the server's log"
            )


def lasting_route(path: str, methods: Sequence[str], handler: Handler, metrics: ServerMetrics, refuse: Refuse) -> Route:
    """Return a route whose calls are counted when their last byte is on its way, whatever becomes of them."""

    async def handle(request: Request) -> Response:
        began, trace = metrics.begin(), metrics.trace(request.headers.get(TRACE_PARENT))
        code = "500"
        found: Response | None = None
        try:
            found = await _settled(handler, request, refuse)
            code = str(found.status_code)
            return found
        finally:
            if isinstance(found, Lasting):
                found.ended = lambda code: metrics.end("rest", code, began, trace)
            else:
                metrics.end("rest", code, began, trace)

    return Route(path, handle, methods=list(methods))


async def _settled(handler: Handler, request: Request, refuse: Refuse) -> Response:
    try:
        return await handler(request)
    except ClientDisconnect:
        return Response(status_code=CLIENT_LEFT)
    except Exception as error:
        return refuse(error)


def event(content: Any) -> bytes:
    """Return an event."""
    return b"data: " + orjson.dumps(content) + b"\n\n"


def failed_event(text: str) -> bytes:
    """Return the event that ends a stream which could not go on."""
    return event({"error": {"message": text, "type": "server_error", "param": None, "code": None}})


def all_of(contents: Iterable[Any]) -> Iterable[bytes]:
    """Return an event for each."""
    return (event(content) for content in contents)


async def whole(request: Request, answers: Answers) -> list[Choice]:
    """Wait for answers to be over. Raises ClientDisconnect, once nobody is there to read them."""
    choices = [Choice() for _ in answers.made]
    gathering = asyncio.create_task(_gather(answers, choices))
    try:
        while not (await asyncio.wait({gathering}, timeout=_LOOK_SECONDS))[0]:
            if await request.is_disconnected():
                raise ClientDisconnect
        await gathering
        return choices
    finally:
        gathering.cancel()
        answers.leave()


async def _gather(answers: Answers, choices: list[Choice]) -> None:
    async for index, piece in answers.pieces():
        choices[index].add(piece)
