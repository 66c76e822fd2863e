"""Errors of the API server, one class for each way to react.

ApiError(TrimtabError)
├── NotFound      404: it is gone, which is often the end of the work
├── Conflict      409, 422 on a stale object: look again at once
├── Forbidden     401, 403: a permission is missing; a person has to grant it
├── Invalid       400, 422: the object is wrong; trying again cannot help
└── Unavailable   429, 5xx, no answer: try again later
"""

from typing import ClassVar

from trimtab_api.errors import TrimtabError


class ApiError(TrimtabError):
    """Base: anything the API server refused, with the request it refused."""

    reason: ClassVar[str] = "ApiError"


class NotFound(ApiError):
    reason = "NotFound"


class Conflict(ApiError):
    reason = "Conflict"


class Forbidden(ApiError):
    reason = "Forbidden"


class Invalid(ApiError):
    reason = "Invalid"


class Unavailable(ApiError):
    reason = "Unavailable"


def error_for(status: int, what: str, message: str) -> ApiError:
    """Return the error for an HTTP status."""
    kinds: dict[int, type[ApiError]] = {
        400: Invalid,
        401: Forbidden,
        403: Forbidden,
        404: NotFound,
        409: Conflict,
        422: Invalid,
    }
    return kinds.get(status, Unavailable)(f"{what}: {status}: {message}")
