"""What REST callers get: outputs or an error as status, headers and body, whichever way the request came in."""

from typing import Final, NamedTuple

import orjson

from trimtab_runtime.engine.queueing import Outputs
from trimtab_runtime.logs import complain
from trimtab_runtime.protocol import rest
from trimtab_runtime.protocol.errors import BadRequest, Busy, RequestError, TooLarge
from trimtab_runtime.protocol.request import InferRequest

HEADER_LENGTH: Final = "inference-header-content-length"
MAX_BODY: Final = 64 << 20
CLIENT_LEFT: Final = 499
_DIGITS: Final = 12  # of a length, at most

Headers = tuple[tuple[str, str], ...]
_JSON: Final = (("content-type", "application/json"),)
_BINARY: Final = ("content-type", "application/octet-stream")


class Answer(NamedTuple):
    """An HTTP answer but for its length."""

    status: int
    body: bytes
    headers: Headers = _JSON


def outputs_answer(writer: rest.Writer, outputs: Outputs, request: InferRequest) -> Answer:
    """Return the answer to an inference call of the protocol."""
    body, length = writer.write(outputs, request)
    return Answer(200, body) if length is None else Answer(200, body, (_BINARY, (HEADER_LENGTH, str(length))))


def error_answer(error: Exception) -> Answer:
    """Return what the caller is told of an error; what is not the caller's fault goes to the log with its cause."""
    if isinstance(error, RecursionError):
        return text_answer(400, "the request is nested too deeply")
    if not isinstance(error, RequestError):
        complain("a request failed", error)
        return text_answer(500, "internal error; the server's log has the cause")
    if error.status == 500 and error.__cause__ is not None:
        complain("inference failed", error.__cause__)
    further = (("retry-after", str(error.retry_after)),) if isinstance(error, Busy) else ()
    return text_answer(error.status, str(error), further)


def text_answer(status: int, text: str, further: Headers = ()) -> Answer:
    """Return an error in the protocol's form."""
    return Answer(status, orjson.dumps({"error": text}), (*_JSON, *further))


def check_announced(length: int) -> None:
    """Raise TooLarge for a body that says it will be too long."""
    if length > MAX_BODY:
        raise TooLarge(f"the body has {length} bytes; at most {MAX_BODY} are taken")


def check_received(size: int) -> None:
    """Raise TooLarge for a body that has become too long."""
    if size > MAX_BODY:
        raise TooLarge(f"the body has more than {MAX_BODY} bytes")


def read_header_length(text: str | None, body: bytes) -> int | None:
    """Return the length of the JSON part before raw tensors; None where there are none. Raises BadRequest."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < _DIGITS) or int(text) > len(body):
        raise BadRequest(f"Inference-Header-Content-Length is {text}, but the body has {len(body)} bytes")
    return int(text)
