"""gRPC over HTTP/2: length-prefixed messages, timeouts, and statuses in trailers.

Source: grpc/doc, PROTOCOL-HTTP2.md and statuscodes.md.
"""

import zlib
from collections.abc import Mapping
from enum import IntEnum
from typing import Final
from urllib.parse import quote

from trimtab_runtime.http2.headers import STATUS_200, literal
from trimtab_runtime.protocol.errors import BadRequest, TooLarge

MAX_MESSAGE: Final = 64 << 20
_PREFIX: Final = 5
MOST_TEXT: Final = 500  # characters of a status
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_WINDOW_BITS: Final = {b"gzip": 31, b"deflate": 15}
_PRINTABLE: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


class Status(IntEnum):
    """Statuses of gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


_TYPE: Final = (b"content-type", b"application/grpc")
ANSWER_HEAD: Final = STATUS_200 + literal([_TYPE, (b"grpc-accept-encoding", b"identity,gzip,deflate")])
OK_TRAILERS: Final = literal([(b"grpc-status", b"0")])


def http_refusal(status: int) -> bytes:
    """Return the head of an answer to what is no gRPC."""
    return literal([(b":status", str(status).encode())])


def status_trailers(status: Status, text: str) -> bytes:
    """Return the trailers of a call that failed."""
    said = quote(text[:MOST_TEXT], _PRINTABLE).encode()  # three bytes for a byte at worst: less than any peer's limit
    return literal([(b"grpc-status", str(int(status)).encode()), (b"grpc-message", said)])


def trailers_only(status: Status, text: str) -> bytes:
    """Return the head of a call that failed before anything was answered."""
    return STATUS_200 + literal([_TYPE]) + status_trailers(status, text)


def read_timeout(text: bytes | None) -> float | None:
    """Return a grpc-timeout in seconds; None where there is none. Raises BadRequest."""
    if text is None:
        return None
    number, unit = text[:-1], _UNITS.get(text[-1:])
    if unit is None or not number.isdigit() or len(number) > 8:
        raise BadRequest(f"grpc-timeout is {text!r}")
    return int(number) * unit


def framed(message: bytes) -> bytes:
    """Return a message with its prefix, not compressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


class Unsupported(BadRequest):
    """A way to compress that is not known here; clients fall back on those that an answer names."""

    reason = "Unsupported"
    status, code = 400, Status.UNIMPLEMENTED.name


class MessageReader:
    """Puts the messages of a stream together from parts, within a limit."""

    __slots__ = ("_encoding", "_parts", "_size")

    def __init__(self, encoding: bytes | None) -> None:
        self._encoding = encoding
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def is_empty(self) -> bool:
        """Return whether nothing of another message is there."""
        return not self._size

    @property
    def size(self) -> int:
        """Return the bytes that wait for the rest of their message."""
        return self._size

    def add(self, data: bytes) -> list[bytes]:
        """Return the messages that are complete with this part. Raises BadRequest and TooLarge."""
        self._parts.append(data)
        self._size += len(data)
        first = self._parts[0]
        if len(first) < _PREFIX and self._size >= _PREFIX:
            first = self._joined()
        messages = []
        while self._size >= _PREFIX:
            length = int.from_bytes(first[1:_PREFIX], "big")
            if length > MAX_MESSAGE:
                raise TooLarge(f"the message has {length} bytes; at most {MAX_MESSAGE} are taken")
            end = _PREFIX + length
            if self._size < end:
                break
            whole = first if len(first) == self._size else self._joined()
            messages.append(self._plain(whole[0], whole[_PREFIX:end]))
            first = whole[end:]
            self._parts, self._size = [first] if first else [], len(first)
        return messages

    def _joined(self) -> bytes:
        self._parts = [b"".join(self._parts)]
        return self._parts[0]

    def _plain(self, flag: int, message: bytes) -> bytes:
        if not flag:
            return message
        bits = _WINDOW_BITS.get(self._encoding or b"")
        if flag != 1 or bits is None:
            raise Unsupported(f"a message is compressed by {self._encoding!r}; gzip and deflate are taken")
        inflater = zlib.decompressobj(bits)
        try:
            plain = inflater.decompress(message, MAX_MESSAGE)
        except zlib.error as error:
            raise BadRequest(f"a compressed message cannot be read: {error}") from error
        if inflater.unconsumed_tail:
            raise TooLarge(f"a message has more than {MAX_MESSAGE} bytes once it is decompressed")
        if not inflater.eof:
            raise BadRequest("a compressed message is cut off")
        return plain


def accepted_type(fields: Mapping[bytes, bytes]) -> bool:
    """Tell whether a request is gRPC with protobuf messages."""
    kind = fields.get(b"content-type", b"")
    return kind in (b"application/grpc", b"application/grpc+proto") or kind.startswith(b"application/grpc;")
