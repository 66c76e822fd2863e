"""A server of several processes: one port, one set of metrics, and one end."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from trimtab_runtime.protocol import oip_pb2, oip_pb2_grpc

Stub: Any = oip_pb2_grpc.GRPCInferenceServiceStub
ROW = [[1.0, 2.0, 3.0]]


@pytest.fixture(params=["lean", "grpcio"])
def server(models: Any, serve: Any, request: pytest.FixtureRequest) -> Any:
    started = serve(models.scores(), WORKERS="2", REVISION="r7", GRPC_ENGINE=request.param)
    started.wait_for("serving")  # the other one too
    return started


def pids(server: Any) -> list[int]:
    return [event["pid"] for event in server.events if event["message"] == "serving"]


def metric(server: Any, line: str) -> float:
    """Return the value of a line of the metrics; 0 where there is none."""
    found = [text for text in httpx.get(f"{server.url}/metrics").text.splitlines() if text.startswith(line)]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


def test_connections_are_dealt_out_to_every_process(server: Any) -> None:
    before = {pid: sockets(pid) for pid in pids(server)}
    with ExitStack() as stack:
        for _ in range(30):
            assert stack.enter_context(httpx.Client()).get(f"{server.url}/v2").status_code == 200
        assert len(before) == 2
        assert all(sockets(pid) > count for pid, count in before.items())


def test_whichever_process_is_asked_tells_what_all_have_counted(server: Any) -> None:
    for _ in range(40):  # connections are dealt out by the kernel
        assert httpx.post(f"{server.url}/predict", json=ROW).status_code == 200
    for _ in range(10):
        with grpc.insecure_channel(server.grpc, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            asked = oip_pb2.ModelInferRequest(model_name="scores")
            asked.inputs.add(name="x", datatype="FP32", shape=[1, 3]).contents.fp32_contents.extend(ROW[0])
            Stub(channel).ModelInfer(asked)
    labels = 'model="scores",protocol="{}",revision="r7"'
    for _ in range(10):
        assert metric(server, f'trimtab_requests_total{{code="200",{labels.format("rest")}}}') == 40
        assert metric(server, f'trimtab_requests_total{{code="OK",{labels.format("grpc")}}}') == 10
        assert metric(server, "trimtab_batch_rows_sum") == 50


def test_a_process_that_dies_is_replaced_and_what_it_had_counted_stays(server: Any) -> None:
    for _ in range(20):
        httpx.post(f"{server.url}/predict", json=ROW)
    dead = pids(server)[0]
    os.kill(dead, signal.SIGKILL)
    died = server.wait_for("a process died; another takes its place")
    assert died["code"] == 128 + signal.SIGKILL
    for _ in range(5):  # by the other one, while it loads
        assert httpx.post(f"{server.url}/predict", json=ROW).status_code == 200
    assert server.wait_for("serving")["pid"] not in pids(server)[:2]
    assert metric(server, 'trimtab_requests_total{code="200"') == 25
    assert metric(server, "trimtab_process_starts_total") == 3


def test_sigterm_drains_all_processes_and_none_is_left(server: Any) -> None:
    server.terminate()
    while httpx.get(f"{server.url}/v2/health/ready").status_code == 200:
        time.sleep(0.01)
    assert httpx.post(f"{server.url}/predict", json=ROW).status_code == 200
    assert server.exit_code() == 0
    assert [event["message"] for event in server.events].count("stopped") == 2
    assert not [pid for pid in pids(server) if Path(f"/proc/{pid}").exists()]


def test_no_process_outlives_one_that_is_killed(server: Any) -> None:
    server.process.kill()
    server.process.wait(30)
    while [pid for pid in pids(server) if is_running(pid)]:
        time.sleep(0.05)


def test_what_cannot_be_served_ends_all_processes_and_says_why(models: Any, serve: Any, tmp_path: Path) -> None:
    message = tmp_path / "termination-log"
    message.touch()
    folder = models.scores("mistaken", inputs=[{"name": "z", "datatype": "FP32", "shape": [-1, 3]}])
    server = serve(folder, ready=False, WORKERS="3", TERMINATION_LOG=str(message))
    assert server.exit_code() == 42
    assert message.read_text() == "model.yaml names the inputs ['z']; model.onnx has ['x']"


def test_a_port_of_another_server_is_not_shared_with_it(models: Any, serve: Any) -> None:
    server = serve(models.scores(), WORKERS="2", PROTOCOLS="rest")
    port = server.url.rpartition(":")[2]
    other = serve(models.scores(), ready=False, WORKERS="2", PROTOCOLS="rest", REST_PORT=port)
    assert other.exit_code() not in (0, 42)
    assert "already in use" in str(other.events)


def test_no_request_is_lost_when_all_processes_stop_under_load(models: Any, serve: Any) -> None:
    server = serve(models.scores(), WORKERS="2", DRAIN_SECONDS="1")
    url = f"{server.url}/predict"

    def ask(_: int) -> int:
        answered = 0
        with httpx.Client() as client:
            while server.process.poll() is None:
                response = client.post(url, json=ROW)
                assert response.status_code == 200
                answered += 1
                if response.headers.get("connection") == "close":
                    return answered
        raise AssertionError("the server ended without asking this caller to leave")

    with ThreadPoolExecutor(8) as callers:
        asking = [callers.submit(ask, at) for at in range(8)]
        time.sleep(0.3)
        server.terminate()
        assert all(caller.result() > 0 for caller in asking)
    assert server.exit_code() == 0


def sockets(pid: int) -> int:
    return sum(os.readlink(link).startswith("socket:") for link in Path(f"/proc/{pid}/fd").iterdir())


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
