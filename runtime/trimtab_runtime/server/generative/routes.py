"""Routes of OpenAI's API, and of the Open Inference Protocol's extension for generation."""

import time
import uuid
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trimtab_runtime.protocol.errors import Busy, UnknownModel
from trimtab_runtime.server.answers import error_answer
from trimtab_runtime.server.generative.forms import ChatForm, CompletionForm, Form, usage
from trimtab_runtime.server.generative.plane import Answers, GenerativePlane
from trimtab_runtime.server.generative.requests import Chat, Completion, Generate, Prompts, read_request
from trimtab_runtime.server.generative.streams import Handler, Refuse, Stream, all_of, event, lasting_route, whole
from trimtab_runtime.server.handling import json_response, read_body, response
from trimtab_runtime.server.metrics import ServerMetrics

_DONE: Final = b"data: [DONE]\n\n"


def routes(plane: GenerativePlane, metrics: ServerMetrics) -> list[Route]:
    """Return the routes of inference."""
    views = _Views(plane)
    found = [
        Route("/v1/models", views.models),
        Route("/v1/models/{model}", views.model),
        _post("/v1/completions", views.completions, metrics, openai_error),
        _post("/v1/chat/completions", views.chat, metrics, openai_error),
    ]
    for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        found.append(_post(f"{model}/generate", views.generate, metrics, _plain_error))
        found.append(_post(f"{model}/generate_stream", views.generate_stream, metrics, _plain_error))
    return found


def openai_error(error: Exception) -> Response:
    """Return what the caller is told of an error, in OpenAI's form, which its clients read."""
    answer = error_answer(error)
    is_ours = answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    kind = "server_error" if is_ours else "invalid_request_error"
    text = str(error) if answer.status != HTTPStatus.INTERNAL_SERVER_ERROR else "internal error; see the server's log"
    code = "model_not_found" if isinstance(error, UnknownModel) else None
    content = {"error": {"message": text, "type": kind, "param": None, "code": code}}
    made = json_response(content, answer.status)
    if isinstance(error, Busy):
        made.headers["retry-after"] = str(error.retry_after)
    return made


def _plain_error(error: Exception) -> Response:
    return response(error_answer(error))


class _Views:
    def __init__(self, plane: GenerativePlane) -> None:
        self._plane = plane
        self._since = int(time.time())

    async def models(self, _: Request) -> Response:
        return json_response({"object": "list", "data": [self._described()]})

    async def model(self, request: Request) -> Response:
        try:
            self._plane.find(request.path_params["model"])
        except UnknownModel as error:
            return openai_error(error)
        return json_response(self._described())

    async def completions(self, request: Request) -> Response:
        asked = read_request(Completion, await read_body(request, self._plane.intake))
        self._plane.find(asked.model)
        form = self._form(CompletionForm, "cmpl", asked.logprobs is not None)
        return await self._answered(request, self._plane.reader.completion(asked), form, asked.n)

    async def chat(self, request: Request) -> Response:
        asked = read_request(Chat, await read_body(request, self._plane.intake))
        self._plane.find(asked.model)
        form = self._form(ChatForm, "chatcmpl", asked.logprobs)
        return await self._answered(request, self._plane.reader.chat(asked), form, asked.n)

    async def generate(self, request: Request) -> Response:
        asked, answers = await self._generate(request, False)
        choice = (await whole(request, answers))[0]
        return json_response(self._generated(asked, "".join(choice.texts), choice.ended))

    async def generate_stream(self, request: Request) -> Response:
        asked, answers = await self._generate(request, True)

        async def events() -> AsyncIterator[bytes]:
            async for _, piece in answers.pieces():
                if piece.text or piece.ended:
                    yield event(self._generated(asked, piece.text, piece.ended))

        return Stream(events(), answers)

    async def _generate(self, request: Request, is_stream: bool) -> tuple[Generate, Answers]:
        self._plane.find(request.path_params["model"], request.path_params.get("version"))
        asked = read_request(Generate, await read_body(request, self._plane.intake))
        return asked, self._plane.answers(self._plane.reader.generate(asked, is_stream).asked)

    def _generated(self, asked: Generate, text: str, ended: str | None) -> dict[str, Any]:
        identity = {} if asked.id is None else {"id": asked.id}
        place = {"model_name": self._plane.name, "model_version": self._plane.version}
        return {**identity, **place, "text_output": text, "details": {"finish_reason": ended}}

    async def _answered(self, request: Request, prompts: Prompts, form: Form, choices: int) -> Response:
        answers = self._plane.answers(prompts.asked)
        if prompts.is_stream:
            return Stream(_events(answers, form, choices, prompts.tells_usage), answers)
        made = await whole(request, answers)
        return json_response(form.whole(made, usage(answers.made, choices)))

    def _form(self, kind: type[Form], prefix: str, logprobs: bool) -> Form:
        return kind(self._plane.words, self._plane.name, f"{prefix}-{uuid.uuid4().hex}", int(time.time()), logprobs)

    def _described(self) -> dict[str, Any]:
        return {"id": self._plane.name, "object": "model", "created": self._since, "owned_by": "trimtab"}


async def _events(answers: Answers, form: Form, choices: int, tells_usage: bool) -> AsyncIterator[bytes]:
    for opening in all_of(form.opening(len(answers.made))):
        yield opening
    async for index, piece in answers.pieces():
        if piece.text or piece.ended or form.tells_tokens:
            yield event(form.chunk(index, piece))
    if tells_usage:
        yield event(form.closing(usage(answers.made, choices)))
    yield _DONE


def _post(path: str, handler: Handler, metrics: ServerMetrics, refuse: Refuse) -> Route:
    return lasting_route(path, ["POST"], handler, metrics, refuse)
