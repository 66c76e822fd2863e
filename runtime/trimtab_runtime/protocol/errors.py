"""Errors of a request, each with its HTTP status and its gRPC code.

RequestError
├── BadRequest      400 INVALID_ARGUMENT: the text says what was expected
├── UnknownModel    404 NOT_FOUND
├── TooLarge        413 RESOURCE_EXHAUSTED
├── Busy            503 UNAVAILABLE: try again after so many seconds
├── Late            504 DEADLINE_EXCEEDED: the caller's own time was over before the model was free
└── InferenceFailed 500 INTERNAL: the model could not compute; the text tells nothing of the inside

The first three are the caller's fault and no sign of a bad model: an analysis counts 5xx, INTERNAL and UNAVAILABLE.
A model that fails on well-formed input counts as the model's fault, although the values may be the caller's: an
analysis that holds too often does less harm than one that lets a broken model pass.
"""

import math
from typing import ClassVar

from trimtab_api.errors import TrimtabError


class RequestError(TrimtabError):
    """Base of what a caller may be told."""

    reason = "RequestError"
    status: ClassVar[int] = 500
    code: ClassVar[str] = "INTERNAL"


class BadRequest(RequestError):
    reason = "BadRequest"
    status, code = 400, "INVALID_ARGUMENT"


class UnknownModel(RequestError):
    reason = "UnknownModel"
    status, code = 404, "NOT_FOUND"


class TooLarge(RequestError):
    reason = "TooLarge"
    status, code = 413, "RESOURCE_EXHAUSTED"


class Busy(RequestError):
    reason = "Busy"
    status, code = 503, "UNAVAILABLE"

    def __init__(self, text: str, seconds: float) -> None:
        super().__init__(text)
        self.retry_after: int = max(1, math.ceil(seconds))  # seconds


class Late(RequestError):
    reason = "Late"
    status, code = 504, "DEADLINE_EXCEEDED"


class InferenceFailed(RequestError):
    reason = "InferenceFailed"
    status, code = 500, "INTERNAL"
