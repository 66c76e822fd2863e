"""A kept connection does not stay for ever: a Service moves new connections only."""

import http.client
import threading
from typing import Any
from urllib.parse import urlsplit

import grpc

from trimtab_runtime.protocol import oip_pb2, oip_pb2_grpc
from trimtab_runtime.server.connections import Connection

Stub: Any = oip_pb2_grpc.GRPCInferenceServiceStub


def test_an_old_connection_is_asked_to_end_with_an_answer(models: Any, serve: Any) -> None:
    server = serve(models.scores(), MAX_CONNECTION_AGE_SECONDS="0.5", PROTOCOLS="rest")
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(server.url).port, timeout=30)
    connection.connect()
    said: list[str | None] = []
    while not said or said[-1] is None:
        connection.request("POST", "/predict", "[[1, 2, 3]]")
        answer = connection.getresponse()
        assert (answer.status, bool(answer.read())) == (200, True)
        said.append(answer.getheader("connection"))
    assert said[0] is None
    assert said[-1] == "close"


def test_a_young_connection_is_kept(scores: Any) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(scores.url).port, timeout=30)
    connection.connect()
    sock = connection.sock
    for _ in range(50):
        connection.request("GET", "/v2")
        connection.getresponse().read()
    assert connection.sock is sock


def test_connections_made_together_do_not_end_together() -> None:
    early, late = Connection(100.0, 0.9), Connection(100.0, 1.1)
    assert [early.is_old(now, 30) for now in (126.9, 127.1)] == [False, True]
    assert [late.is_old(now, 30) for now in (132.9, 133.1)] == [False, True]


def test_an_old_grpc_connection_is_left_without_losing_a_call(models: Any, serve: Any) -> None:
    server = serve(models.scores(), MAX_CONNECTION_AGE_SECONDS="0.3", DRAIN_SECONDS="5")
    left = threading.Event()
    ready: list[bool] = []

    def watch(state: grpc.ChannelConnectivity) -> None:
        if state is grpc.ChannelConnectivity.READY:
            ready.append(True)
        elif ready:
            left.set()

    with grpc.insecure_channel(server.grpc) as channel:
        channel.subscribe(watch)
        stub = Stub(channel)
        while not left.is_set() or len(ready) < 3:
            assert stub.ServerReady(oip_pb2.ServerReadyRequest()).ready
