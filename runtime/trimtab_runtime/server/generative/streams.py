"""Answers as they are made: events of a stream (text/event-stream), or whole."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from trimtab_runtime.protocol.openai_answers import Choice
from trimtab_runtime.server.answers import CLIENT_LEFT
from trimtab_runtime.server.generative.plane import Answers

_LOOK_SECONDS: Final = 0.5  # whether the caller is still there
_HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}  # proxies have to pass events on at once

Write = Callable[[Any], bytes]
Ended = Callable[[str], None]


class Stream(StreamingResponse):
    """Events of answers. `ended` is called with the code under which the call counts, when the last one is sent."""

    def __init__(self, events: AsyncIterator[bytes], answers: Answers) -> None:
        super().__init__(self._watched(events), media_type="text/event-stream", headers=_HEADERS)
        self.ended: Ended = lambda code: None
        self._answers = answers
        self._code = str(CLIENT_LEFT)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answers.leave()
            self.ended(self._code)

    async def _watched(self, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Pass events on, and an error as the last one: the status was sent before anything could go wrong."""
        try:
            async for event in events:
                yield event
            self._code = "200"
        except Exception as error:
            self._code = "500"
            yield failed_event(error)


def event(content: Any) -> bytes:
    """Return an event."""
    return b"data: " + orjson.dumps(content) + b"\n\n"


def failed_event(error: Exception) -> bytes:
    """Return the event that ends a stream which could not go on."""
    return event({"error": {"message": str(error), "type": "server_error", "param": None, "code": None}})


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
