"""What every REST handler needs: its body within limits, its answer, and that each inference call is counted once."""

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from trimtab_runtime.intake import Intake
from trimtab_runtime.protocol.request import Spent
from trimtab_runtime.server.answers import CLIENT_LEFT, Answer, check_announced, check_received, error_answer
from trimtab_runtime.server.endpoints import Endpoints
from trimtab_runtime.server.tracing import SERVER_TIMING, TRACE_PARENT

Handler = Callable[[Request, Spent | None], Awaitable[Response]]
Asked = tuple[str | None, str | None]


def asked_for(request: Request) -> Asked:
    """Return the name and version of the model that a path names."""
    return request.path_params.get("model"), request.path_params.get("version")


def counted(handler: Handler, endpoints: Endpoints) -> Callable[[Request], Awaitable[Response]]:
    """Wrap an inference handler: whatever happens becomes an answer, and is counted."""

    async def handle(request: Request) -> Response:
        metrics = endpoints.counting(*asked_for(request))
        with metrics.request("rest", "500", request.headers.get(TRACE_PARENT)) as outcome:
            found = await _settled(handler, request, outcome.spent)
            outcome.code = str(found.status_code)
            if (timing := metrics.timing(outcome.trace)) is not None:
                found.headers[SERVER_TIMING] = timing
            return found

    return handle


async def read_body(request: Request, intake: Intake) -> bytes:
    """Read the body, and stop as soon as it is clear that it is too large. Raises TooLarge, and Busy."""
    announced = request.headers.get("content-length", "0")
    check_announced(int(announced) if announced.isdigit() else 0)
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            intake.take(len(part))
            check_received(size)
            parts.append(part)
        return b"".join(parts)
    finally:
        intake.give(size)


def response(answer: Answer) -> Response:
    """Return an answer as the framework has it."""
    return Response(answer.body, answer.status, dict(answer.headers))


def json_response(content: Any, status: int = 200) -> Response:
    """Return an answer in JSON."""
    return response(Answer(status, orjson.dumps(content)))


async def _settled(handler: Handler, request: Request, spent: Spent | None) -> Response:
    try:
        return await handler(request, spent)
    except ClientDisconnect:
        return Response(status_code=CLIENT_LEFT)
    except Exception as error:
        return response(error_answer(error))
