"""The state of one connection: frames in, requests out, answers in, frames out. Source: RFC 9113.

What a peer may make us hold or do is bounded: header blocks, streams at once, bytes on the way (flow control), and
frames that lead to nothing (resets, pings, settings: CVE-2023-44487 and its like).
"""

import struct
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from trimtab_runtime.http2 import frames
from trimtab_runtime.http2.frames import Code, ConnectionFault, Setting, StreamFault
from trimtab_runtime.http2.headers import MAX_LIST, Request, RequestReader
from trimtab_runtime.logs import complain

STREAMS: Final = 256  # at once
_STREAM_WINDOW: Final = 1 << 20  # bytes on the way to us
_WINDOW: Final = 8 << 20
_MAX_BLOCK: Final = 64 << 10  # bytes of a header block, encoded
_MOST_WAITING: Final = 64 << 20  # bytes of answers that the peer does not take; it gets no further ones meanwhile
_MOST_TEXT: Final = 200  # characters of what is said of a fault
_PIECE: Final = 100  # bytes that a piece of an answer counts for beside its own
_MOST_SETTINGS: Final = 32  # in one frame
_MOST_IDLE: Final = 2000  # frames that lead to nothing, beyond what answers make up for
_RECENT: Final = 256  # streams that we reset, of which frames may still be on the way


@dataclass(slots=True, eq=False)
class Stream:
    """A request and its answer. `context` belongs to the handler."""

    id: int
    request: Request
    send_window: int
    receive_window: int = _STREAM_WINDOW
    received: int = 0
    is_complete: bool = False  # nothing more comes
    waiting: deque[memoryview] = field(default_factory=deque)  # data that no window has let through
    trailers: bytes | None = None  # that follow it
    context: Any = None


class Handler(Protocol):
    """What is told of requests."""

    def begun(self, stream: Stream) -> None:
        """A request has begun: its head is there."""

    def received(self, stream: Stream, data: bytes) -> None:
        """A part of its body has come."""

    def completed(self, stream: Stream) -> None:
        """All of it has come."""

    def aborted(self, stream: Stream) -> None:
        """The peer does not want it any more, or broke the protocol. Nothing can be answered."""


class Connection:
    """The server's side. `receive` never raises; `take` returns what is to be sent; `is_over` says when to close."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._reader = RequestReader()
        self._buffer = b""
        self._has_preface = self._has_settings = False
        self._block: tuple[int, int, bytearray] | None = None  # a header block that is not complete
        self._last_id = 0
        self._idle_frames = 0
        self._reset_by_us: deque[int] = deque(maxlen=_RECENT)
        self._send_window = frames.FIRST_WINDOW
        self._first_send_window = frames.FIRST_WINDOW
        self._max_frame = frames.LEAST_FRAME
        self._receive_window = _WINDOW
        self._blocked: dict[int, Stream] = {}
        self._waiting = 0  # bytes of answers that no window has let through
        self._goaway_id: int | None = None  # streams above are not taken any more
        self._ping = b"trimtab!"
        self.streams: dict[int, Stream] = {}
        self.is_over = False
        self.is_broken = False  # by a fault: nothing of what was sent before need arrive
        ours = {
            Setting.MAX_CONCURRENT_STREAMS: STREAMS,
            Setting.INITIAL_WINDOW_SIZE: _STREAM_WINDOW,
            Setting.MAX_HEADER_LIST_SIZE: MAX_LIST,
        }
        self._out = [frames.settings(ours), frames.window_update(0, _WINDOW - frames.FIRST_WINDOW)]

    def take(self) -> bytes:
        """Return the bytes to be sent since the last call."""
        out, self._out = self._out, []
        return b"".join(out)

    def receive(self, data: bytes) -> None:
        """Take bytes in, however they are cut."""
        if self.is_over:
            return
        try:
            self._receive(self._buffer + data if self._buffer else data)
        except ConnectionFault as fault:
            self._end(fault.code, str(fault))
        except Exception as error:  # a fault of ours: the other calls of the connection cannot be told apart from it
            complain("a connection failed", error)
            self._end(Code.INTERNAL_ERROR, "internal error")

    def send(self, stream: Stream, head: bytes = b"", data: bytes = b"", trailers: bytes | None = None) -> None:
        """Answer a stream: its head first, then data, any number of times, then trailers (b"" where there are none)."""
        if self.streams.get(stream.id) is not stream:
            return
        if head:
            self._out.append(frames.frame(frames.HEADERS, frames.END_HEADERS, stream.id, head))
        if data:
            stream.waiting.append(memoryview(data))
            self._waiting += len(data) + _PIECE
        stream.trailers = trailers
        self._pump(stream)

    def refuse(self, stream: Stream, block: bytes) -> None:
        """Answer a stream with a head alone, whatever of the request is still to come."""
        if self.streams.get(stream.id) is not stream:
            return
        flags = frames.END_HEADERS | frames.END_STREAM
        self._out.append(frames.frame(frames.HEADERS, flags, stream.id, block))
        self._finish(stream)

    def go_away(self) -> None:
        """Ask the peer to ask elsewhere. What crosses this on the way is still taken (RFC 9113, section 6.8)."""
        if self._goaway_id is None:
            self._goaway_id = frames.LARGEST_WINDOW
            self._out.append(frames.goaway(self._goaway_id, Code.NO_ERROR))
            self._out.append(frames.frame(frames.PING, 0, 0, self._ping))  # answered once all before it has come

    def lost(self) -> None:
        """The connection is gone: nothing can be answered any more."""
        self.is_over = True
        for stream in list(self.streams.values()):
            self._abort(stream)

    def _receive(self, data: bytes) -> None:
        at, size = 0, len(data)
        if not self._has_preface:
            if not frames.PREFACE.startswith(data[: len(frames.PREFACE)]):
                raise ConnectionFault(Code.PROTOCOL_ERROR, "this is no HTTP/2")
            if size < len(frames.PREFACE):
                self._buffer = data
                return
            self._has_preface, at = True, len(frames.PREFACE)
        while size - at >= frames.HEAD:
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            if length > frames.LEAST_FRAME:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, f"a frame has {length} bytes")
            start, end = at + frames.HEAD, at + frames.HEAD + length
            if end > size:
                break
            stream_id = int.from_bytes(data[at + 5 : start], "big") & frames.LARGEST_WINDOW
            try:
                self._frame(data[at + 3], data[at + 4], stream_id, data[start:end])
            except StreamFault as fault:
                self._reset(fault.stream_id, fault.code)
            if self.is_over:
                return
            at = end
        self._buffer = data[at:]

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is not None and (kind != frames.CONTINUATION or stream_id != self._block[0]):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a header block is not complete")
        if not self._has_settings:
            if kind != frames.SETTINGS or flags & frames.ACK:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "settings have to come first")
            self._has_settings = True
        if kind == frames.DATA:
            self._on_data(flags, stream_id, payload)
        elif kind == frames.HEADERS:
            self._on_headers(flags, stream_id, payload)
        elif kind == frames.CONTINUATION:
            self._on_continuation(flags, payload)
        elif kind == frames.WINDOW_UPDATE:
            self._on_window_update(stream_id, payload)
        elif kind == frames.PING:
            self._on_ping(flags, stream_id, payload)
        elif kind == frames.RST_STREAM:
            self._on_rst_stream(stream_id, payload)
        elif kind == frames.SETTINGS:
            self._on_settings(flags, stream_id, payload)
        elif kind == frames.PRIORITY:
            self._on_priority(stream_id, payload)
        elif kind == frames.GOAWAY:
            _check(stream_id == 0, Code.PROTOCOL_ERROR, "GOAWAY of a stream")
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "clients promise nothing")
        else:
            self._count_idle()

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._receive_window -= len(payload)
        _check(self._receive_window >= 0, Code.FLOW_CONTROL_ERROR, "more data than the connection may have on the way")
        if self._receive_window < _WINDOW // 2:
            self._out.append(frames.window_update(0, _WINDOW - self._receive_window))
            self._receive_window = _WINDOW
        stream = self._open_stream(stream_id, "DATA")
        if stream is None:
            return
        stream.receive_window -= len(payload)
        if stream.receive_window < 0:
            raise StreamFault(stream_id, Code.FLOW_CONTROL_ERROR, "more data than the stream may have on the way")
        data = frames.unpadded(payload, flags)
        stream.received += len(data)
        stream.is_complete = bool(flags & frames.END_STREAM)
        if data:
            self._handler.received(stream, data)
        elif not stream.is_complete:
            self._count_idle()
        if self.streams.get(stream_id) is not stream:
            return  # it was answered by this
        if self._waiting > _MOST_WAITING:
            raise StreamFault(stream_id, Code.ENHANCE_YOUR_CALM, "answers are not taken")
        if stream.is_complete:
            self._complete(stream)
        elif stream.receive_window < _STREAM_WINDOW // 2:
            self._out.append(frames.window_update(stream_id, _STREAM_WINDOW - stream.receive_window))
            stream.receive_window = _STREAM_WINDOW

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        _check(stream_id % 2 == 1, Code.PROTOCOL_ERROR, "streams of clients have odd numbers")
        block = frames.unpadded(payload, flags)
        if flags & frames.HAS_PRIORITY:
            _check(len(block) >= 5, Code.FRAME_SIZE_ERROR, "a priority without its bytes")
            depends, block = int.from_bytes(block[:4], "big") & frames.LARGEST_WINDOW, block[5:]
            _check(depends != stream_id, Code.PROTOCOL_ERROR, "a stream depends on itself")
        if flags & frames.END_HEADERS:
            self._on_block(stream_id, flags, block)
        else:
            self._block = (stream_id, flags, bytearray(block))

    def _on_continuation(self, flags: int, payload: bytes) -> None:
        if self._block is None:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a continuation of nothing")
        stream_id, first, block = self._block
        block += payload
        _check(len(block) <= _MAX_BLOCK, Code.ENHANCE_YOUR_CALM, "a header block without end")
        if not payload:
            self._count_idle()
        if flags & frames.END_HEADERS:
            self._block = None
            self._on_block(stream_id, first, bytes(block))

    def _on_block(self, stream_id: int, flags: int, block: bytes) -> None:
        ends = bool(flags & frames.END_STREAM)
        if stream_id <= self._last_id:
            self._on_trailers(stream_id, ends, block)
            return
        self._last_id = stream_id
        if self._goaway_id is not None and stream_id > self._goaway_id:
            self._reader.skip(block)
            return
        request = self._reader.request(stream_id, block)
        if len(self.streams) >= STREAMS or self._waiting > _MOST_WAITING:
            raise StreamFault(stream_id, Code.REFUSED_STREAM, "too many streams, or answers that are not taken")
        stream = self.streams[stream_id] = Stream(stream_id, request, self._first_send_window)
        self._handler.begun(stream)
        if ends:
            self._complete(stream)

    def _on_trailers(self, stream_id: int, ends: bool, block: bytes) -> None:
        if stream_id in self._reset_by_us:
            self._reader.skip(block)
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            raise ConnectionFault(Code.STREAM_CLOSED, "headers of a stream that is closed")
        self._reader.trailers(stream_id, block)
        if stream.is_complete:
            raise StreamFault(stream_id, Code.STREAM_CLOSED, "headers after the end")
        if not ends:
            raise StreamFault(stream_id, Code.PROTOCOL_ERROR, "trailers without the end")
        self._complete(stream)

    def _on_window_update(self, stream_id: int, payload: bytes) -> None:
        _check(len(payload) == 4, Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE has 4 bytes")
        increment = int.from_bytes(payload, "big") & frames.LARGEST_WINDOW
        if stream_id == 0:
            _check(increment > 0, Code.PROTOCOL_ERROR, "a window grows by nothing")
            self._send_window += increment
            _check(self._send_window <= frames.LARGEST_WINDOW, Code.FLOW_CONTROL_ERROR, "a window is too large")
            for stream in list(self._blocked.values()):
                if self._send_window <= 0:
                    break
                self._pump(stream)
            return
        _check(stream_id <= self._last_id, Code.PROTOCOL_ERROR, "a window of an idle stream")
        if increment == 0:
            raise StreamFault(stream_id, Code.PROTOCOL_ERROR, "a window grows by nothing")
        if found := self.streams.get(stream_id):
            self._widen(found, increment)

    def _widen(self, stream: Stream, by: int) -> None:
        stream.send_window += by
        if stream.send_window > frames.LARGEST_WINDOW:
            raise StreamFault(stream.id, Code.FLOW_CONTROL_ERROR, "a window is too large")
        self._pump(stream)

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        _check(stream_id == 0, Code.PROTOCOL_ERROR, "PING of a stream")
        _check(len(payload) == 8, Code.FRAME_SIZE_ERROR, "PING has 8 bytes")
        if not flags & frames.ACK:
            self._count_idle()
            self._out.append(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif payload == self._ping and self._goaway_id == frames.LARGEST_WINDOW:
            self._goaway_id = self._last_id
            self._out.append(frames.goaway(self._last_id, Code.NO_ERROR))
            self._end_if_done()

    def _on_rst_stream(self, stream_id: int, payload: bytes) -> None:
        _check(0 < stream_id <= self._last_id, Code.PROTOCOL_ERROR, "a reset of an idle stream")
        _check(len(payload) == 4, Code.FRAME_SIZE_ERROR, "RST_STREAM has 4 bytes")
        self._count_idle()
        if found := self.streams.get(stream_id):
            self._abort(found)
            self._end_if_done()

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        _check(stream_id == 0, Code.PROTOCOL_ERROR, "SETTINGS of a stream")
        is_ack = bool(flags & frames.ACK)
        _check(len(payload) % 6 == 0 and not (is_ack and payload), Code.FRAME_SIZE_ERROR, "SETTINGS of another length")
        if is_ack:
            return
        _check(len(payload) <= 6 * _MOST_SETTINGS, Code.ENHANCE_YOUR_CALM, "too many settings at once")
        self._count_idle()
        self._out.append(frames.frame(frames.SETTINGS, frames.ACK, 0))  # before what a wider window lets through
        for key, value in struct.iter_unpack(">HI", payload):
            self._on_setting(key, value)

    def _on_setting(self, key: int, value: int) -> None:
        if key == Setting.ENABLE_PUSH:
            _check(value in (0, 1), Code.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
        elif key == Setting.INITIAL_WINDOW_SIZE:
            _check(value <= frames.LARGEST_WINDOW, Code.FLOW_CONTROL_ERROR, "a window is too large")
            change, self._first_send_window = value - self._first_send_window, value
            widest = max((stream.send_window for stream in self.streams.values()), default=0)
            _check(widest + change <= frames.LARGEST_WINDOW, Code.FLOW_CONTROL_ERROR, "a window is too large")
            for stream in list(self.streams.values()):
                self._widen(stream, change)
        elif key == Setting.MAX_FRAME_SIZE:
            is_right = frames.LEAST_FRAME <= value <= frames.LARGEST_FRAME
            _check(is_right, Code.PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of bounds")
            self._max_frame = value

    def _on_priority(self, stream_id: int, payload: bytes) -> None:
        _check(stream_id > 0, Code.PROTOCOL_ERROR, "PRIORITY of the connection")
        self._count_idle()
        if len(payload) != 5:
            raise StreamFault(stream_id, Code.FRAME_SIZE_ERROR, "PRIORITY has 5 bytes")
        if int.from_bytes(payload[:4], "big") & frames.LARGEST_WINDOW == stream_id:
            raise StreamFault(stream_id, Code.PROTOCOL_ERROR, "a stream depends on itself")

    def _open_stream(self, stream_id: int, what: str) -> Stream | None:
        """Return the stream that a frame belongs to; None for one that we have reset. Raises both faults."""
        stream = self.streams.get(stream_id)
        if stream is not None and not stream.is_complete:
            return stream
        _check(0 < stream_id <= self._last_id, Code.PROTOCOL_ERROR, f"{what} of an idle stream")
        if stream is None and stream_id in self._reset_by_us:
            return None
        raise StreamFault(stream_id, Code.STREAM_CLOSED, f"{what} after the end")

    def _complete(self, stream: Stream) -> None:
        if self.streams.get(stream.id) is not stream:
            return
        stream.is_complete = True
        announced = stream.request.content_length
        if announced is not None and announced != stream.received:
            raise StreamFault(stream.id, Code.PROTOCOL_ERROR, f"{stream.received} bytes, announced were {announced}")
        self._handler.completed(stream)

    def _pump(self, stream: Stream) -> None:
        """Send as much of what waits as the windows let through, and the trailers after all of it."""
        waiting = stream.waiting
        while waiting:
            data = waiting[0]
            room = min(len(data), self._send_window, stream.send_window, self._max_frame)
            if room <= 0:
                if stream.send_window > 0:
                    self._blocked[stream.id] = stream  # by the connection; another waits for its own window alone
                else:
                    self._blocked.pop(stream.id, None)
                return
            self._out.append(frames.frame(frames.DATA, 0, stream.id, data[:room]))
            self._send_window -= room
            self._waiting -= room
            stream.send_window -= room
            if room == len(data):
                waiting.popleft()
                self._waiting -= _PIECE
            else:
                waiting[0] = data[room:]
        self._blocked.pop(stream.id, None)
        if stream.trailers is not None:
            kind = frames.HEADERS if stream.trailers else frames.DATA
            flags = frames.END_STREAM | (frames.END_HEADERS if stream.trailers else 0)
            self._out.append(frames.frame(kind, flags, stream.id, stream.trailers))
            self._finish(stream)

    def _finish(self, stream: Stream) -> None:
        """The answer is complete. What of the request is not there yet is not wanted any more."""
        self._forget(stream)
        stream.context = None  # which knows the stream: only the garbage collector could free the two
        self._idle_frames = max(0, self._idle_frames - 2)
        if not stream.is_complete:
            self._reset_by_us.append(stream.id)
            self._out.append(frames.rst_stream(stream.id, Code.NO_ERROR))
        self._end_if_done()

    def _reset(self, stream_id: int, code: Code) -> None:
        self._count_idle()
        self._reset_by_us.append(stream_id)
        self._out.append(frames.rst_stream(stream_id, code))
        if found := self.streams.get(stream_id):
            self._abort(found)
            self._end_if_done()

    def _abort(self, stream: Stream) -> None:
        self._forget(stream)
        self._handler.aborted(stream)
        stream.context = None

    def _forget(self, stream: Stream) -> None:
        self.streams.pop(stream.id, None)
        self._blocked.pop(stream.id, None)
        self._waiting -= sum(len(data) + _PIECE for data in stream.waiting)
        stream.waiting.clear()

    def _count_idle(self) -> None:
        self._idle_frames += 1
        _check(self._idle_frames <= _MOST_IDLE, Code.ENHANCE_YOUR_CALM, "too many frames that lead to nothing")

    def _end_if_done(self) -> None:
        is_final = self._goaway_id is not None and self._goaway_id != frames.LARGEST_WINDOW
        if is_final and not self.streams:
            self.is_over = True

    def _end(self, code: Code, text: str) -> None:
        last = self._last_id if self._goaway_id is None else min(self._last_id, self._goaway_id)
        self._out.append(frames.goaway(last, code, text[:_MOST_TEXT]))
        self.is_broken = True
        self.lost()


def _check(is_right: bool, code: Code, text: str) -> None:
    if not is_right:
        raise ConnectionFault(code, text)
