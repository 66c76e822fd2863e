"""Bytes on a connection: what comes in pieces, in one go or in disguise is answered once, in order, or refused."""

import json
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

Talk = Callable[..., list[tuple[int, Any]]]

INFER = "/v2/models/scores/infer"
UNUSUAL = f"{INFER}?a=1"  # takes the road through the framework


def body_of(number: int) -> bytes:
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [number, 0, 0]}
    return json.dumps({"id": str(number), "inputs": [tensor]}).encode()


def post(number: int, path: str = INFER, *headers: str) -> bytes:
    body = body_of(number)
    lines = [f"POST {path} HTTP/1.1", "Host: here", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.fixture
def talk(http: httpx.Client) -> Iterator[Talk]:
    """Send pieces of bytes on one connection and return status and content of each answer, until it is closed."""
    sockets: list[socket.socket] = []

    def talk(*pieces: bytes, answers: int) -> list[tuple[int, Any]]:
        raw = socket.create_connection((http.base_url.host, http.base_url.port or 0), timeout=10)
        sockets.append(raw)
        for piece in pieces:
            raw.sendall(piece)
            time.sleep(0.005)
        return list(read_answers(raw.makefile("rb"), answers))

    yield talk
    for raw in sockets:
        raw.close()


def read_answers(stream: Any, count: int) -> Iterator[tuple[int, Any]]:
    for _ in range(count):
        first = stream.readline()
        if not first:
            return
        headers = dict(line.lower().rstrip(b"\r\n").split(b": ", 1) for line in iter(stream.readline, b"\r\n"))
        content = stream.read(int(headers.get(b"content-length", 0)))
        is_json = headers.get(b"content-type") == b"application/json"
        yield int(first.split()[1]), json.loads(content) if is_json else content


def ids(answers: list[tuple[int, Any]]) -> list[tuple[int, str]]:
    return [(status, content.get("id")) for status, content in answers]


@pytest.mark.parametrize("length", [1, 7, 64, 200])
def test_a_request_in_pieces_is_one_request(talk: Talk, length: int) -> None:
    whole = post(5)
    pieces = [whole[at : at + length] for at in range(0, len(whole), length)]

    assert ids(talk(*pieces, answers=1)) == [(200, "5")]


@pytest.mark.parametrize(
    "paths",
    [[INFER] * 6, [UNUSUAL] * 3, [INFER, UNUSUAL, INFER, INFER, UNUSUAL, INFER], [UNUSUAL, INFER, INFER, UNUSUAL]],
)
def test_requests_that_do_not_wait_for_answers_get_them_in_order(talk: Talk, paths: list[str]) -> None:
    together = b"".join(post(number, path) for number, path in enumerate(paths))

    assert ids(talk(together, answers=len(paths))) == [(200, str(number)) for number in range(len(paths))]


def test_a_connection_serves_one_request_after_the_other_by_either_road(http: httpx.Client) -> None:
    for number in range(50):
        path = (INFER, UNUSUAL, "/v2", INFER)[number % 4]
        answer = http.get(path) if path == "/v2" else http.post(path, content=body_of(number))
        assert answer.json().get("id", str(number)) == str(number)


def test_a_body_in_chunks_is_put_together(talk: Talk) -> None:
    body = body_of(3)
    head = f"POST {INFER} HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:9], body[9:], b"")]

    assert ids(talk(head, *chunks, answers=1)) == [(200, "3")]


def test_a_body_in_chunks_is_never_taken_for_one_that_is_whole(talk: Talk) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    pieces = []
    for number in range(4):
        body = body_of(number)
        pieces += [head, b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)]

    assert ids(talk(*pieces, answers=4)) == [(200, str(number)) for number in range(4)]


def test_a_head_that_came_before_may_come_with_less_or_more_of_its_body(talk: Talk) -> None:
    whole = [post(number) for number in (1, 2, 3, 4, 5)]
    cut = len(whole[0]) - 20
    pieces = [whole[0], whole[1][:cut], whole[1][cut:], whole[2] + whole[3], whole[4]]

    assert ids(talk(*pieces, answers=5)) == [(200, str(number)) for number in (1, 2, 3, 4, 5)]


def test_who_asks_before_sending_a_body_is_told_to_go_on(talk: Talk) -> None:
    asked = post(4, INFER, "Expect: 100-continue")

    answers = talk(asked[: -len(body_of(4))], body_of(4), answers=2)

    assert [answers[0][0], *ids(answers[1:])] == [100, (200, "4")]


def test_who_closes_with_the_request_is_answered_and_then_left(talk: Talk) -> None:
    assert ids(talk(post(1, INFER, "Connection: close"), answers=2)) == [(200, "1")]


HIDDEN = b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        f"Content-Length: 5\r\nContent-Length: {len(HIDDEN)}",
        f"Content-Length: {len(HIDDEN)}\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Content-Length: +5",
        "Content-Length: 0x5",
        "Content-Length : 5",
        "Content-Length: 5\r\n folded: x",
        "Transfer-Encoding:\x0bchunked",
        "A: b\nContent-Length: 0",
        "A\x00: b",
    ],
)
def test_a_length_that_can_be_read_in_two_ways_hides_no_second_request(talk: Talk, head: str) -> None:
    asked = f"POST {INFER} HTTP/1.1\r\nHost: here\r\n{head}\r\n\r\n".encode("latin-1") + HIDDEN

    answers = talk(asked, answers=2)

    assert [status for status, _ in answers] == [400]


def test_what_follows_a_request_that_ends_the_connection_is_not_read(talk: Talk) -> None:
    assert [status for status, _ in talk(post(1, INFER, "Connection: close") + HIDDEN, answers=2)] == [200]


def test_a_caller_that_leaves_before_its_answer_harms_nobody(models: Any, serve: Any) -> None:
    slow = serve(models.slow(), PROTOCOLS="rest")
    tensor = {"name": "x", "shape": [8, 1024], "datatype": "FP32", "data": [0.0] * 8192}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = f"POST /v2/models/slow/infer HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    url = httpx.URL(slow.url)
    for _ in range(20):
        with socket.create_connection((url.host, url.port or 0)) as leaver:
            leaver.sendall(head + body)

    assert httpx.post(f"{slow.url}/v2/models/slow/infer", content=body).status_code == 200
    text = httpx.get(f"{slow.url}/metrics").text
    assert "trimtab_inflight_requests 0.0" in text
    assert 'code="200"' in text


@pytest.mark.parametrize("head", ["A: " + "b" * (65 << 10), "\r\n".join(f"A{at}: b" for at in range(10_000))])
def test_headers_without_end_are_refused(talk: Talk, head: str) -> None:
    ((status, content),) = talk(f"POST {INFER} HTTP/1.1\r\nHost: here\r\n{head}\r\n".encode(), answers=1)

    assert (status, content["error"]) == (431, "headers have more than 65536 bytes")


def test_a_request_that_does_not_arrive_ends_its_connection(models: Any, serve: Any) -> None:
    server = serve(models.scores(), PROTOCOLS="rest", READ_TIMEOUT_SECONDS="0.1")
    url = httpx.URL(server.url)
    for sent in (b"POST /predict HT", post(1)[:-9], post(1, "/predict")[:-9]):
        with socket.create_connection((url.host, url.port or 0), timeout=10) as slow:
            slow.sendall(sent)
            assert ended(slow)
    assert httpx.post(f"{server.url}{INFER}", content=body_of(1)).status_code == 200
    assert "trimtab_inflight_requests 0.0" in httpx.get(f"{server.url}/metrics").text


@pytest.mark.parametrize("road", ["1", "0"])
def test_a_connection_that_asks_for_nothing_is_closed_in_time(models: Any, serve: Any, road: str) -> None:
    server = serve(models.scores(), PROTOCOLS="rest", KEEP_ALIVE_SECONDS="0.1", FAST_PATH=road)
    url = httpx.URL(server.url)
    for sent in (b"", post(1), b"GET /v2 HTTP/1.1\r\nHost: here\r\n\r\n"):
        with socket.create_connection((url.host, url.port or 0), timeout=10) as idle:
            idle.sendall(sent)
            assert ended(idle)


def ended(connection: socket.socket) -> bool:
    """Read until the connection is at its end."""
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return True


@pytest.mark.parametrize("trailer", [b"b" * 4096, b"A: b\r\n" * 700])
def test_trailers_without_end_are_refused(http: httpx.Client, trailer: bytes) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: ".encode()
    with socket.create_connection((http.base_url.host, http.base_url.port or 0), timeout=10) as raw:
        raw.sendall(head)
        sent = 0
        while not select.select([raw], [], [], 0.01)[0]:
            raw.sendall(trailer)
            sent += len(trailer)
            assert sent < 1 << 20
        ((status, content),) = read_answers(raw.makefile("rb"), 1)

    assert (status, content["error"]) == (431, "headers have more than 65536 bytes")


def test_a_body_in_the_smallest_chunks_is_taken(talk: Talk) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    padded = body_of(1) + b" " * 20_000
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in padded) + b"0\r\n\r\n"

    assert ids(talk(head, *(chunks[at : at + 8192] for at in range(0, len(chunks), 8192)), answers=1)) == [(200, "1")]


@pytest.mark.parametrize("road", ["1", "0"])
def test_who_does_not_read_his_answers_is_not_served_for_ever(models: Any, serve: Any, road: str) -> None:
    server = serve(
        models.echo("FP32"), PROTOCOLS="rest", READ_TIMEOUT_SECONDS="0.3", KEEP_ALIVE_SECONDS="0.3", FAST_PATH=road
    )
    url = httpx.URL(server.url)
    tensor = {"name": "x", "shape": [1, 20_000], "datatype": "FP32", "data": [1.5] * 20_000}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = f"POST /v2/models/echo-fp32/infer HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((url.host, url.port or 0), timeout=10) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert is_cut_off(deaf, head.encode() + body)
    assert resident(server) < 400 << 20


def is_cut_off(deaf: socket.socket, request: bytes) -> bool:
    """Ask again and again without reading, until the connection ends, or takes no more."""
    try:
        for _ in range(2000):
            deaf.sendall(request)
    except OSError:
        return True
    return False


def resident(server: Any) -> int:
    """Return the bytes that a server holds."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) << 10
