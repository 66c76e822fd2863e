"""However many connections there are, what is on its way on all of them together is bounded."""

import json
import socket
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx
import pytest

from trimtab_runtime.protocol import oip_pb2, oip_pb2_grpc

Stub: Any = oip_pb2_grpc.GRPCInferenceServiceStub
HALF = 600 << 10  # two of them are more than a mebibyte
REST = 100 << 10
PATHS = ["/v2/models/scores/infer", "/predict", "/v1/models/scores:predict"]


@pytest.fixture
def server(models: Any, serve: Any) -> Any:
    return serve(models.scores(), INTAKE_MIB="1")


def begin(server: Any, path: str) -> socket.socket:
    """Send a part of a request, and leave it at that."""
    connection = socket.create_connection(("127.0.0.1", urlsplit(server.url).port or 0), timeout=30)
    head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Length: {HALF + REST}\r\n\r\n"
    connection.sendall(head.encode() + b" " * HALF)
    return connection


def answer(connection: socket.socket) -> str:
    found = b""
    with connection:
        while not found.endswith(b"}"):
            found += connection.recv(4096)
    return found.decode()


@pytest.mark.parametrize("path", PATHS)
def test_what_would_be_too_much_on_all_connections_together_is_refused(server: Any, path: str) -> None:
    first = begin(server, path)
    wait_for(server, "trimtab_intake_bytes", HALF)
    refused = answer(begin(server, path))
    assert refused.startswith("HTTP/1.1 503")
    assert "retry-after: 1" in refused
    assert "try again later" in refused
    assert httpx.post(f"{server.url}/predict", json=[[1, 2, 3]]).status_code == 200  # a small one has room
    first.sendall(b" " * (REST - 9) + b"[[1,2,3]]")
    assert answer(first).startswith("HTTP/1.1 " + ("200" if path == "/predict" else "400"))
    wait_for(server, "trimtab_intake_bytes", 0)


def test_who_leaves_makes_place(server: Any) -> None:
    for path in PATHS:
        begin(server, path).close()
        wait_for(server, "trimtab_intake_bytes", 0)


def test_calls_over_grpc_are_counted_with_them(server: Any) -> None:
    asked = oip_pb2.ModelInferRequest(model_name="scores", raw_input_contents=[bytes(HALF)])
    with grpc.insecure_channel(server.grpc) as channel:
        infer = Stub(channel).ModelInfer
        with begin(server, PATHS[0]):
            wait_for(server, "trimtab_intake_bytes", HALF)
            with pytest.raises(grpc.RpcError) as caught:
                infer(asked)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        wait_for(server, "trimtab_intake_bytes", 0)
        with pytest.raises(grpc.RpcError) as caught:
            infer(asked)  # now it is read, and is no request
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    wait_for(server, "trimtab_intake_bytes", 0)


def test_a_message_counts_as_what_it_is_once_it_is_decompressed(server: Any) -> None:
    asked = oip_pb2.ModelInferRequest(model_name="scores", raw_input_contents=[bytes(4 << 20)])  # 4 KiB on the wire
    with grpc.insecure_channel(server.grpc, compression=grpc.Compression.Gzip) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            Stub(channel).ModelInfer(asked)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    wait_for(server, "trimtab_intake_bytes", 0)


def test_bodies_in_chunks_that_are_too_large_give_back_what_they_took(models: Any, serve: Any) -> None:
    large = serve(models.scores(), INTAKE_MIB="100")
    for path in PATHS:
        response = httpx.post(f"{large.url}{path}", content=(bytes(1 << 20) for _ in range(65)), timeout=30)
        assert response.status_code == 413
        wait_for(large, "trimtab_intake_bytes", 0)


def test_a_request_alone_that_is_more_than_the_limit_is_refused(server: Any) -> None:
    content = json.dumps([[1, 2, 3]] * 120_000).encode()
    response = httpx.post(f"{server.url}/predict", content=content)
    assert response.status_code == 503
    wait_for(server, "trimtab_intake_bytes", 0)


def wait_for(server: Any, name: str, least: int) -> None:
    """Ask until a metric is as large as this, or nothing; the test's own time limit ends it."""
    while True:
        lines = httpx.get(f"{server.url}/metrics").text.splitlines()
        found = float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])
        if found >= least if least else found == 0:
            return
