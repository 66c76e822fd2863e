"""The one exception tree.

TrimtabError
├── UserError            the user has to change something: trying again cannot help
│   ├── InvalidSpec          a spec that parses but cannot work
│   ├── SourceNotFound       a URI that names nothing
│   ├── Unauthorized         a registry that wants credentials, or other ones
│   ├── DigestMismatch       content that is not what its digest says
│   ├── InvalidPackage       a model package that cannot be loaded
│   ├── UnsafeFormat         a format that runs code when read, without the opt-in
│   ├── InvalidData          a data set that does not fit the model
│   ├── PassFailed           an optimization pass that cannot do what is asked
│   ├── MissingTool          a pass whose tool is not installed where it is to run
│   ├── InsufficientMemory   a pass that needs more memory than its Job may have
│   └── OutOfMemory          a Job that was killed again and again
└── TransientError       the environment failed: trying again may help
    ├── RegistryUnavailable  no answer, or a server error
    └── OutOfResources       memory or disk ran out
"""

from typing import ClassVar


class TrimtabError(Exception):
    """Base of all errors. `reason` is a CamelCase word, fit for a condition; the text names the cause and the mend."""

    reason: ClassVar[str] = "InternalError"


class UserError(TrimtabError):
    """Catch this to stop: the same input fails again."""

    reason = "UserError"


class TransientError(TrimtabError):
    """Catch this to try again later."""

    reason = "TransientError"


class InvalidSpec(UserError):
    reason = "InvalidSpec"


class SourceNotFound(UserError):
    reason = "SourceNotFound"


class Unauthorized(UserError):
    reason = "Unauthorized"


class DigestMismatch(UserError):
    reason = "DigestMismatch"


class InvalidPackage(UserError):
    reason = "InvalidPackage"


class UnsafeFormat(UserError):
    reason = "UnsafeFormat"


class InvalidData(UserError):
    reason = "InvalidData"


class PassFailed(UserError):
    reason = "PassFailed"


class MissingTool(UserError):
    reason = "MissingTool"


class InsufficientMemory(UserError):
    reason = "InsufficientMemory"


class OutOfMemory(UserError):
    reason = "OutOfMemory"


class RegistryUnavailable(TransientError):
    reason = "RegistryUnavailable"


class OutOfResources(TransientError):
    reason = "OutOfResources"


def describe_errors() -> dict[str, type[TrimtabError]]:
    """Map each reason of the tree to its class, so that a reason read from a Job finds its class again."""
    found: dict[str, type[TrimtabError]] = {}
    waiting: list[type[TrimtabError]] = [TrimtabError]
    while waiting:
        kind = waiting.pop()
        found[kind.reason] = kind
        waiting.extend(kind.__subclasses__())
    return found
