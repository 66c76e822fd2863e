"""A server that is told to end loses nothing: measured with a real process, under load, from a caller's side."""

import asyncio
import http.client
import select
import signal
import threading
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from trimtab_runtime.protocol import oip_pb2, oip_pb2_grpc

Stub: Any = oip_pb2_grpc.GRPCInferenceServiceStub
WEIGHTS = np.arange(6, dtype=np.float32).reshape(3, 2)
FOREVER = "3600"


class Service:
    """What a Kubernetes Service does: a new connection goes to the pod chosen now, and stays with it."""

    def __init__(self, port: int) -> None:
        self.target = port

    async def open(self) -> str:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        self._server.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            back, forth = await asyncio.open_connection("127.0.0.1", self.target)
            await asyncio.gather(_pump(reader, forth), _pump(back, writer))
            forth.close()
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


class Load:
    """Callers that go on until told to stop, each with inputs of its own; whatever goes wrong is kept."""

    def __init__(self) -> None:
        self.answered: dict[tuple[str, str], int] = {}
        self.failures: list[str] = []
        self._stop = False
        self._moved = asyncio.Condition()

    async def until(self, kind: str, revision: str, count: int) -> None:
        """Wait until callers of a kind have had this many answers from a revision."""
        async with self._moved:
            await self._moved.wait_for(lambda: self.failures or self.answered.get((kind, revision), 0) >= count)

    def stop(self) -> None:
        self._stop = True

    async def rest(self, kind: str, address: str, seed: int) -> None:
        limits = httpx.Limits(max_keepalive_connections=0 if kind == "new" else 1)
        async with httpx.AsyncClient(limits=limits, timeout=20) as client:

            async def ask(rows: Any) -> tuple[str, Any]:
                inputs = [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": rows.tolist()}]
                answer = await client.post(f"http://{address}/v2/models/scores/infer", json={"inputs": inputs})
                assert answer.status_code == 200, answer.text
                content = answer.json()
                return content["model_version"], [content["outputs"][0]["data"]]

            await self._go_on(kind, seed, ask)

    async def grpc(self, address: str, seed: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            stub = Stub(channel)

            async def ask(rows: Any) -> tuple[str, Any]:
                asked = oip_pb2.ModelInferRequest(model_name="scores", raw_input_contents=[rows.tobytes()])
                asked.inputs.add(name="x", datatype="FP32", shape=[1, 3])
                answer = await stub.ModelInfer(asked, timeout=20)
                return answer.model_version, [np.frombuffer(answer.raw_output_contents[0], "<f4").tolist()]

            await self._go_on("grpc", seed, ask)

    async def _go_on(self, kind: str, seed: int, ask: Any) -> None:
        random = np.random.default_rng(seed)
        while not self._stop:
            rows = random.integers(0, 100, (1, 3)).astype("<f4")
            try:
                revision, answer = await ask(rows)
                assert answer == (rows @ WEIGHTS).tolist()
            except Exception as error:
                self.failures.append(f"{kind} after {self.answered}: {error!r}")
                revision = "none"
            async with self._moved:
                self.answered[kind, revision] = self.answered.get((kind, revision), 0) + 1
                self._moved.notify_all()


async def test_moving_from_one_server_to_the_next_loses_no_request(models: Any, serve: Any) -> None:
    old, new = (serve(models.scores(), REVISION=name, DRAIN_SECONDS="2") for name in ("old", "new"))
    rest, grpc_service = Service(port_of(old.url)), Service(int(old.grpc.rpartition(":")[2]))
    rest_address, grpc_address = await rest.open(), await grpc_service.open()
    load = Load()
    callers = [load.rest("kept", rest_address, seed) for seed in range(6)]
    callers += [load.rest("new", rest_address, 100 + seed) for seed in range(2)]
    callers += [load.grpc(grpc_address, 200 + seed) for seed in range(4)]
    running = asyncio.gather(*callers)
    kinds = ("kept", "new", "grpc")
    await asyncio.gather(*(load.until(kind, "old", 50) for kind in kinds))

    old.terminate()
    await asyncio.to_thread(old.wait_for, "draining")
    # News of an endpoint takes time to travel: the old server goes on getting new connections for a while.
    await load.until("new", "old", load.answered["new", "old"] + 20)
    rest.target, grpc_service.target = port_of(new.url), int(new.grpc.rpartition(":")[2])

    assert await asyncio.to_thread(old.exit_code) == 0
    await asyncio.gather(*(load.until(kind, "new", 50) for kind in kinds))
    load.stop()
    await running
    await asyncio.gather(rest.close(), grpc_service.close())
    assert load.failures == []
    assert {revision for _, revision in load.answered} == {"old", "new"}


def test_during_a_drain_everything_is_answered_and_every_connection_is_asked_to_end(models: Any, serve: Any) -> None:
    server = serve(models.scores(), DRAIN_SECONDS="1", PROTOCOLS="rest")
    kept, idle = connect(server), connect(server)
    assert [get(kept, "/v2/health/ready"), get(idle, "/v2/health/ready")] == [(200, None)] * 2
    server.terminate()
    server.wait_for("draining")
    assert get(kept, "/v2/health/live") == (200, "close")
    assert get(connect(server), "/v2/health/ready") == (503, "close")
    assert get(connect(server), "/v2/models/scores/ready") == (503, "close")
    connection = connect(server)
    connection.request("POST", "/predict", "[[1, 2, 3]]")
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("connection")) == (200, "close")
    assert not select.select([idle.sock], [], [], 0)[0]  # still open
    assert idle.sock.recv(1) == b""  # ended, not reset
    assert server.exit_code() == 0
    assert [event["message"] for event in server.events] == ["learned", "serving", "draining", "stopped"]


def test_grpc_says_that_it_is_not_serving_during_a_drain(models: Any, serve: Any) -> None:
    server = serve(models.scores(), DRAIN_SECONDS=FOREVER)
    with grpc.insecure_channel(server.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        updates = health.Watch(health_pb2.HealthCheckRequest())
        assert next(updates).status == health_pb2.HealthCheckResponse.SERVING
        server.terminate()
        assert next(updates).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not Stub(channel).ServerReady(oip_pb2.ServerReadyRequest()).ready


def test_a_body_that_is_on_its_way_at_the_end_is_still_answered(models: Any, serve: Any) -> None:
    server = serve(models.scores(), DRAIN_SECONDS="0", PROTOCOLS="rest")
    connection = connect(server)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", "11")
    connection.endheaders()
    connection.send(b"[[1, 2")
    wait_until_in_flight(server)
    server.terminate()
    server.wait_for("draining")
    connection.send(b", 3]]")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b'{"predictions":[{"y":[16.0,22.0],"label":"dog"}]}')
    assert server.exit_code() == 0


def test_what_runs_at_the_end_of_the_drain_is_finished(models: Any, serve: Any) -> None:
    server = serve(models.slow(), DRAIN_SECONDS="0")
    rows = np.ones((500, 1024), dtype="<f4")
    asked = oip_pb2.ModelInferRequest(model_name="slow", raw_input_contents=[rows.tobytes()])
    asked.inputs.add(name="x", datatype="FP32", shape=rows.shape)
    with grpc.insecure_channel(server.grpc) as channel:
        call = Stub(channel).ModelInfer.future(asked)
        answers: list[httpx.Response] = []
        headers = {"Inference-Header-Content-Length": "0"}
        url = f"{server.url}/v2/models/slow/infer"
        rest = threading.Thread(
            target=lambda: answers.append(httpx.post(url, content=rows.tobytes(), headers=headers, timeout=60))
        )
        rest.start()
        wait_until_in_flight(server, 2)
        server.terminate()
        assert call.result(timeout=60).raw_output_contents == [rows.tobytes()]
        rest.join(60)
    assert answers[0].content.endswith(rows.tobytes())
    assert server.exit_code() == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_drain(models: Any, serve: Any, second: signal.Signals) -> None:
    server = serve(models.scores(), DRAIN_SECONDS=FOREVER)
    server.terminate()
    server.wait_for("draining")
    server.process.send_signal(second)
    assert server.exit_code() == 0


def test_a_person_at_the_keyboard_does_not_wait_for_a_drain(models: Any, serve: Any) -> None:
    server = serve(models.scores(), DRAIN_SECONDS=FOREVER)
    server.process.send_signal(signal.SIGINT)
    assert server.exit_code() == 0


def port_of(url: str) -> int:
    return urlsplit(url).port or 0


def connect(server: Any) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(server.url), timeout=30)
    connection.connect()
    return connection


def get(connection: http.client.HTTPConnection, path: str) -> tuple[int, str | None]:
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.getheader("connection")


def wait_until_in_flight(server: Any, count: int = 1) -> None:
    while f"trimtab_inflight_requests {count}.0" not in httpx.get(f"{server.url}/metrics").text:
        assert server.process.poll() is None
