"""HTTP/2 as the standard has it: judged by h2spec, and by frames that no well-meaning client would send."""

import os
import re
import socket
import struct
import subprocess
import time
from typing import Any

import grpc
import pytest

from trimtab_cluster import binaries
from trimtab_runtime.http2 import frames
from trimtab_runtime.http2.connection import STREAMS, Connection, Stream
from trimtab_runtime.http2.frames import Code, Setting, frame, settings, window_update
from trimtab_runtime.http2.headers import STATUS_200, literal
from trimtab_runtime.protocol import oip_pb2, oip_pb2_grpc

Stub: Any = oip_pb2_grpc.GRPCInferenceServiceStub
REQUEST = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a"), (b"content-type", b"application/grpc")]
HELLO = frames.PREFACE + settings({})
OPEN, LAST = frames.END_HEADERS, frames.END_HEADERS | frames.END_STREAM


class Notes:
    """A handler that notes what it is told, and answers what it is told to."""

    def __init__(self, answer: bytes | None = None) -> None:
        self.told: list[tuple[str, int]] = []
        self.body = b""
        self.answer = answer
        self.connection = Connection(self)
        self.streams: dict[int, Stream] = {}

    def begun(self, stream: Stream) -> None:
        self.told.append(("begun", stream.id))
        self.streams[stream.id] = stream

    def received(self, stream: Stream, data: bytes) -> None:
        self.body += data

    def completed(self, stream: Stream) -> None:
        self.told.append(("completed", stream.id))
        if self.answer is not None:
            self.connection.send(stream, STATUS_200, self.answer, literal([(b"grpc-status", b"0")]))

    def aborted(self, stream: Stream) -> None:
        self.told.append(("aborted", stream.id))

    def sent(self) -> list[tuple[int, int, int, bytes]]:
        """Return the frames that were sent since the last look: kind, flags, stream, payload."""
        data, found = self.connection.take(), []
        while data:
            length = int.from_bytes(data[:3], "big")
            stream_id = int.from_bytes(data[5:9], "big")
            found.append((data[3], data[4], stream_id, data[9 : 9 + length]))
            data = data[9 + length :]
        return found


@pytest.fixture
def notes() -> Notes:
    found = Notes(b"answer")
    found.connection.receive(HELLO)
    found.sent()
    return found


def request(stream_id: int, flags: int = LAST, fields: Any = REQUEST) -> bytes:
    return frame(frames.HEADERS, flags, stream_id, literal(fields))


def ended_with(notes: Notes) -> Code:
    """Return the code of the GOAWAY that ended the connection."""
    assert notes.connection.is_over
    (payload,) = [payload for kind, _, _, payload in notes.sent() if kind == frames.GOAWAY]
    return Code(struct.unpack(">II", payload[:8])[1])


def test_the_server_holds_to_the_standard(models: Any, serve: Any) -> None:
    """Every case of h2spec, the strict ones too."""
    if os.geteuid() != 0:
        pytest.skip("binaries are built as root")
    program = binaries.ready(["h2spec"])["h2spec"]
    host, port = serve(models.scores(), MAX_CONNECTION_AGE_SECONDS="3600").grpc.split(":")

    done = subprocess.run([program, "--strict", "-h", host, "-p", port], capture_output=True, text=True, check=False)

    counted = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", done.stdout)
    assert counted, done.stdout + done.stderr
    assert (int(counted[1]) > 140, counted[3], counted[4]) == (True, "0", "0"), done.stdout[-3000:]


@pytest.mark.parametrize("length", [1, 3, 9, 50])
def test_frames_may_be_cut_anywhere(length: int) -> None:
    notes = Notes(b"answer")
    data = HELLO + request(1, OPEN) + frame(frames.DATA, frames.END_STREAM, 1, b"body") + request(3)
    for at in range(0, len(data), length):
        notes.connection.receive(data[at : at + length])

    assert notes.told == [("begun", 1), ("completed", 1), ("begun", 3), ("completed", 3)]
    assert notes.body == b"body"


def test_an_answer_waits_for_the_windows_of_its_receiver_and_gets_through() -> None:
    notes = Notes(bytes(range(256)) * 400)
    notes.connection.receive(frames.PREFACE + settings({Setting.INITIAL_WINDOW_SIZE: 10}) + request(1))
    got = b"".join(payload for kind, *_, payload in notes.sent() if kind == frames.DATA)
    assert len(got) == 10

    trailers = []
    for _ in range(200):
        notes.connection.receive(window_update(1, 1000) + window_update(0, 600))
        sent = notes.sent()
        got += b"".join(payload for kind, *_, payload in sent if kind == frames.DATA)
        trailers += [flags for kind, flags, *_ in sent if kind == frames.HEADERS]

    assert got == notes.answer
    assert trailers == [LAST]
    assert not notes.connection.streams


def test_who_sends_is_given_new_windows() -> None:
    notes = Notes(b"")
    notes.connection.receive(HELLO + request(1, OPEN))
    notes.sent()
    granted: dict[int, int] = {}
    for _ in range(2000):
        notes.connection.receive(frame(frames.DATA, 0, 1, bytes(16384)))
        for kind, _, stream_id, payload in notes.sent():
            assert kind == frames.WINDOW_UPDATE
            granted[stream_id] = granted.get(stream_id, 0) + int.from_bytes(payload, "big")

    assert len(notes.body) == 2000 * 16384
    assert min(granted.values()) > 2000 * 16384 - (8 << 20)


def test_more_than_the_window_is_refused(notes: Notes) -> None:
    notes.connection.receive(request(1, OPEN))
    notes.streams[1].receive_window = 100
    notes.connection.receive(frame(frames.DATA, 0, 1, bytes(101)))

    assert (frames.RST_STREAM, 0, 1, Code.FLOW_CONTROL_ERROR.to_bytes(4, "big")) in notes.sent()
    assert notes.told[-1] == ("aborted", 1)


def test_a_window_that_settings_make_too_large_ends_the_connection(notes: Notes) -> None:
    notes.connection.receive(request(1, OPEN) + window_update(1, frames.LARGEST_WINDOW - frames.FIRST_WINDOW))
    notes.connection.receive(settings({Setting.INITIAL_WINDOW_SIZE: 70_000}))

    assert ended_with(notes) == Code.FLOW_CONTROL_ERROR


def test_an_answer_in_the_midst_of_a_request_is_the_last_word_on_it(notes: Notes) -> None:
    notes.connection.receive(request(1, OPEN))
    stream = notes.streams[1]
    notes.received = lambda _, data: notes.connection.refuse(stream, STATUS_200)  # type: ignore[method-assign]
    notes.connection.receive(frame(frames.DATA, frames.END_STREAM, 1, b"body") + request(3))

    assert notes.told == [("begun", 1), ("begun", 3), ("completed", 3)]
    assert [kind for kind, _, stream_id, _ in notes.sent() if stream_id == 1] == [frames.HEADERS]


def test_a_fault_of_ours_ends_the_connection_with_a_word(notes: Notes) -> None:
    def broken(_: Stream) -> None:
        raise RuntimeError("a fault of ours")

    notes.completed = broken  # type: ignore[method-assign]
    notes.connection.receive(request(1))

    assert ended_with(notes) == Code.INTERNAL_ERROR


def test_a_large_answer_takes_time_in_proportion() -> None:
    notes = Notes(bytes(48 << 20))
    wide = settings({Setting.INITIAL_WINDOW_SIZE: frames.LARGEST_WINDOW})
    began = time.process_time()
    notes.connection.receive(frames.PREFACE + wide + window_update(0, frames.LARGEST_WINDOW - frames.FIRST_WINDOW))
    notes.connection.receive(request(1))
    spent = time.process_time() - began
    assert len(notes.connection.take()) > 48 << 20

    began = time.process_time()
    bytes(48 << 20) + bytes(48 << 20)
    assert spent < 200 * (time.process_time() - began) + 1


def test_one_stream_too_many_is_refused_and_the_others_are_not() -> None:
    notes = Notes()
    notes.connection.receive(HELLO + b"".join(request(1 + 2 * at) for at in range(STREAMS + 1)))

    refused = [stream_id for kind, _, stream_id, _ in notes.sent() if kind == frames.RST_STREAM]
    assert refused == [1 + 2 * STREAMS]
    assert len(notes.connection.streams) == STREAMS


def test_who_does_not_take_his_answers_gets_no_further_ones() -> None:
    notes = Notes(bytes(20 << 20))
    notes.connection.receive(frames.PREFACE + settings({Setting.INITIAL_WINDOW_SIZE: 0}))
    notes.connection.receive(b"".join(request(1 + 2 * at) for at in range(6)))
    assert [stream_id for kind, _, stream_id, _ in notes.sent() if kind == frames.RST_STREAM] == [9, 11]

    notes.connection.receive(frame(frames.RST_STREAM, 0, 1, bytes(4)) + request(13))

    assert ("completed", 13) in notes.told


@pytest.mark.parametrize(
    "flood",
    [
        lambda at: request(1 + 2 * at) + frame(frames.RST_STREAM, 0, 1 + 2 * at, bytes(4)),
        lambda at: frame(frames.PING, 0, 0, bytes(8)),
        lambda at: settings({}),
        lambda at: frame(frames.PRIORITY, 0, 1, bytes(5)),
        lambda at: frame(99, 0, 0, b""),
        lambda at: request(1, OPEN) if at == 0 else frame(frames.DATA, 0, 1, b""),
        lambda at: request(1 + 2 * at, fields=[(b":method", b"POST")]),
    ],
)
def test_frames_that_lead_to_nothing_end_the_connection(flood: Any) -> None:
    notes = Notes()
    notes.connection.receive(HELLO)
    at = 0
    while not notes.connection.is_over:
        notes.connection.receive(flood(at))
        at += 1
        assert at < 10_000

    assert ended_with(notes) == Code.ENHANCE_YOUR_CALM
    assert not notes.connection.streams


def test_a_caller_that_leaves_now_and_then_is_no_flood(notes: Notes) -> None:
    for at in range(5000):
        first = 1 + 4 * at
        notes.connection.receive(request(first, OPEN) + frame(frames.RST_STREAM, 0, first, bytes(4)))
        notes.connection.receive(request(first + 2))
        notes.sent()

    assert not notes.connection.is_over


def test_a_header_block_without_end_ends_the_connection(notes: Notes) -> None:
    notes.connection.receive(frame(frames.HEADERS, 0, 1, b""))
    while not notes.connection.is_over:
        notes.connection.receive(frame(frames.CONTINUATION, 0, 1, bytes(16384)))

    assert ended_with(notes) == Code.ENHANCE_YOUR_CALM


def test_a_small_block_that_becomes_a_large_list_ends_the_connection(notes: Notes) -> None:
    entry = b"\x40" + b"\x01a" + b"\x7f\xa1\x1e" + bytes(4000)  # enters the table
    notes.connection.receive(frame(frames.HEADERS, LAST, 1, literal(REQUEST) + entry + b"\xbe" * 1000))

    assert ended_with(notes) == Code.COMPRESSION_ERROR


def test_the_same_block_means_another_thing_once_the_table_has_changed(notes: Notes) -> None:
    def literal_path(path: bytes) -> bytes:
        return b"\x83\x86\x44" + bytes((len(path),)) + path  # POST, http, and a path that enters the table

    indexed = b"\x83\x86\xbe"  # POST, http, and the newest entry
    for stream_id, block in (
        (1, literal_path(b"/a")),
        (3, indexed),
        (5, literal_path(b"/b")),
        (7, indexed),
        (9, indexed),
    ):
        notes.connection.receive(frame(frames.HEADERS, LAST, stream_id, block))

    assert [stream.request.path for stream in notes.streams.values()] == [b"/a", b"/a", b"/b", b"/b", b"/b"]


def test_a_block_is_not_known_any_more_once_what_it_names_has_left_the_table(notes: Notes) -> None:
    enters = [b"\x40\x01" + name + b"\x01v" for name in (b"a", b"b")]
    oldest = literal(REQUEST) + b"\xbf"  # the second newest entry
    notes.connection.receive(frame(frames.HEADERS, LAST, 1, literal(REQUEST) + b"".join(enters)))
    notes.connection.receive(frame(frames.HEADERS, LAST, 3, oldest) + frame(frames.HEADERS, LAST, 5, oldest))
    assert ("completed", 5) in notes.told
    shrunk_and_grown = b"\x3f\x09" + b"\x3f\xe1\x1f"  # to 40 bytes, which is one entry, and back to 4096

    notes.connection.receive(frame(frames.HEADERS, LAST, 7, shrunk_and_grown + literal(REQUEST)))
    notes.connection.receive(frame(frames.HEADERS, LAST, 9, oldest))

    assert ("completed", 7) in notes.told
    assert ended_with(notes) == Code.COMPRESSION_ERROR


def test_what_crosses_a_goaway_is_answered_and_then_the_connection_is_over(notes: Notes) -> None:
    notes.connection.go_away()
    ping = next(payload for kind, *_, payload in notes.sent() if kind == frames.PING)
    notes.connection.receive(request(1))
    assert ("completed", 1) in notes.told
    assert not notes.connection.is_over

    notes.connection.receive(frame(frames.PING, frames.ACK, 0, ping) + request(3))

    assert ("begun", 3) not in notes.told
    assert notes.connection.is_over


def test_a_connection_that_is_lost_tells_of_each_request() -> None:
    notes = Notes()
    notes.connection.receive(HELLO + request(1, OPEN) + request(3))

    notes.connection.lost()

    assert sorted(notes.told[-2:]) == [("aborted", 1), ("aborted", 3)]


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", bytes(64), frames.PREFACE + bytes(64)])
def test_what_is_no_http2_ends_its_connection_and_nothing_else(models: Any, shared: Any, noise: bytes) -> None:
    server = shared(models.scores())
    host, port = server.grpc.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as stranger:
        stranger.sendall(noise)
        deadline = time.monotonic() + 10
        while stranger.recv(1 << 16):
            assert time.monotonic() < deadline
    with grpc.insecure_channel(server.grpc) as channel:
        assert Stub(channel).ServerLive(oip_pb2.ServerLiveRequest()).live
