"""Header blocks: those of requests are decoded and checked, those of answers are written without compression.

Sources: RFC 7541 (HPACK, by the library hpack), RFC 9113 section 8.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hpack import Decoder
from hpack.exceptions import HPACKError

from trimtab_runtime.http2.frames import Code, ConnectionFault, StreamFault

MAX_LIST: Final = 64 << 10  # bytes of headers, decoded
_CACHED: Final = 64
_DIGITS: Final = 20  # of a length, at most
_PSEUDO: Final = frozenset({b":method", b":scheme", b":path", b":authority"})
_NEEDED: Final = frozenset({b":method", b":scheme", b":path"})
_OF_CONNECTIONS: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
STATUS_200: Final = b"\x88"  # the static table's entry

Fields = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request that is well-formed; `fields` are the regular ones, the last of a name."""

    method: bytes
    path: bytes
    fields: Mapping[bytes, bytes]

    @property
    def content_length(self) -> int | None:
        """Return the announced length of the body."""
        text = self.fields.get(b"content-length")
        return int(text) if text is not None else None


class RequestReader:
    """Decodes the header blocks of one connection.

    A block that leaves the table as it is means the same until the table changes, so it is decoded once: a client asks
    in the same words again and again.
    """

    def __init__(self) -> None:
        self._decoder = Decoder(MAX_LIST)
        self._known: dict[bytes, Request] = {}

    def request(self, stream_id: int, block: bytes) -> Request:
        """Return the head of a request. Raises ConnectionFault and StreamFault."""
        known = self._known.get(block)
        if known is not None:
            return known
        fields, has_changed = self._followed(block)
        request = _request(stream_id, fields)
        if not has_changed and len(self._known) < _CACHED:
            self._known[block] = request
        return request

    def trailers(self, stream_id: int, block: bytes) -> Fields:
        """Return the fields after a body. Raises ConnectionFault and StreamFault."""
        fields, _ = self._followed(block)
        _check_fields(stream_id, fields)
        return fields

    def skip(self, block: bytes) -> None:
        """Decode a block for what it does to the table alone. Raises ConnectionFault."""
        self._followed(block)

    def _followed(self, block: bytes) -> tuple[Fields, bool]:
        """Decode a block, and forget what others mean if it changes the table: what is added to it comes first."""
        table: Any = self._decoder.header_table
        first, count, size = _first(table), len(table.dynamic_entries), table.maxsize
        fields = self._decoded(block)
        has_changed = _first(table) is not first or (len(table.dynamic_entries), table.maxsize) != (count, size)
        if has_changed:
            self._known.clear()
        return fields, has_changed

    def _decoded(self, block: bytes) -> Fields:
        try:
            return [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except (HPACKError, IndexError, ValueError) as error:
            raise ConnectionFault(Code.COMPRESSION_ERROR, f"a header block cannot be read: {error}") from error


def _first(table: Any) -> Any:
    return table.dynamic_entries[0] if table.dynamic_entries else None


def literal(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a header block of fields that enter no table, so that it is the same on every connection."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)


def _text(text: bytes) -> bytes:
    length = len(text)
    if length < 127:
        return bytes((length,)) + text
    length, prefix = length - 127, [127]
    while length >= 128:
        prefix.append(length % 128 + 128)
        length //= 128
    return bytes((*prefix, length)) + text


def _request(stream_id: int, fields: Fields) -> Request:
    pseudo = {}
    count = 0
    for name, value in fields:
        if not name.startswith(b":"):
            break
        if name not in _PSEUDO or name in pseudo:
            raise StreamFault(stream_id, Code.PROTOCOL_ERROR, f"{name!r} is out of place")
        pseudo[name] = value
        count += 1
    if not pseudo.keys() >= _NEEDED or not pseudo[b":path"]:
        raise StreamFault(stream_id, Code.PROTOCOL_ERROR, "a request needs :method, :scheme and :path")
    _check_fields(stream_id, fields[count:])
    return Request(pseudo[b":method"], pseudo[b":path"], dict(fields[count:]))


def _check_fields(stream_id: int, fields: Fields) -> None:
    for name, value in fields:
        is_wrong = (
            not name
            or name.startswith(b":")
            or name != name.lower()
            or name in _OF_CONNECTIONS
            or (name == b"te" and value != b"trailers")
            or (name == b"content-length" and not (value.isdigit() and len(value) < _DIGITS))
        )
        if is_wrong:
            raise StreamFault(stream_id, Code.PROTOCOL_ERROR, f"{name!r} is out of place")
