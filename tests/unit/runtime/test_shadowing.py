"""Copies of requests go to another server, whose answers are compared and never given to callers."""

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from onnx import helper
from prometheus_client.parser import text_string_to_metric_families

from trimtab_runtime.protocol import asking, oip_pb2, oip_pb2_grpc
from trimtab_runtime.protocol.agreement import count_agreeing
from trimtab_testing.servers import Models, Serve, Serving, start

Stub: Any = oip_pb2_grpc.GRPCInferenceServiceStub
ROW = [1.0, 2.0, 3.0]
ASKED = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": ROW}]}
Counted = dict[str, float]


@pytest.fixture(scope="session")
def contrary(models: Models) -> Path:
    """Scores whose largest is where that of models.scores() is not."""
    weights = {"w": -np.arange(6, dtype=np.float32).reshape(3, 2)}
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return models.write("contrary", [node], {"x": ("FP32", (-1, 3))}, {"y": ("FP32", (-1, 2))}, weights)


def shadowed(serve: Serve, folder: Path, shadow: str, **settings: str) -> Serving:
    return serve(folder, MODEL_NAME="scores", SHADOW=shadow, SHADOW_PERCENT="100", **settings)


def counted(server: Serving, until: Callable[[Counted], bool]) -> Counted:
    """Ask for what became of copies until it is so; the test's own time limit ends it."""
    while True:
        families = text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text)
        lines = [line for family in families for line in family.samples if line.name.startswith("trimtab_shadow_")]
        found = {line.labels["outcome"]: line.value for line in lines if line.name.endswith("_total")}
        if until(found):
            return found
        time.sleep(0.01)


def ask(url: str, count: int) -> None:
    """Ask so often, slowly enough that each request is copied."""
    with httpx.Client(base_url=url) as client:
        for _ in range(count):
            answer = client.post("/v2/models/scores/infer", json=ASKED).json()
            assert answer["outputs"][0]["data"] == [16.0, 22.0]
            time.sleep(0.02)


@pytest.mark.parametrize("fast_path", ["1", "0"])
def test_a_server_that_answers_alike_agrees_on_every_row(models: Models, serve: Serve, fast_path: str) -> None:
    other = serve(models.scores())
    server = shadowed(serve, models.scores(), other.url, FAST_PATH=fast_path)
    ask(server.url, 3)
    httpx.post(f"{server.url}/predict", json=[ROW] * 4)
    time.sleep(0.02)
    with grpc.insecure_channel(server.grpc) as channel:
        asked = oip_pb2.ModelInferRequest(model_name="scores")
        asked.inputs.add(name="x", datatype="FP32", shape=[1, 3]).contents.fp32_contents.extend(ROW)
        Stub(channel).ModelInfer(asked)

    assert counted(server, lambda found: found.get("answered") == 5) == {"answered": 5, "agreed": 8}


def test_rows_are_counted_on_which_the_other_server_answers_another_class(
    models: Models, contrary: Path, serve: Serve
) -> None:
    other = serve(contrary, MODEL_NAME="scores")
    server = shadowed(serve, models.scores(), other.url)
    ask(server.url, 5)

    assert counted(server, lambda found: found.get("answered") == 5) == {"answered": 5, "differed": 5}


def test_where_the_other_server_is_not_there_callers_do_not_notice(models: Models, serve: Serve) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        server = shadowed(serve, models.scores(), f"http://127.0.0.1:{taken.getsockname()[1]}")
        ask(server.url, 3)

        assert counted(server, lambda found: found.get("failed") == 3) == {"failed": 3}


def test_where_the_other_server_never_answers_copies_are_left_out_and_callers_do_not_notice(
    models: Models, serve: Serve
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = shadowed(serve, models.scores(), f"http://127.0.0.1:{silent.getsockname()[1]}")
        while not (found := counted(server, lambda _: True)).get("skipped"):
            ask(server.url, 10)
        assert "answered" not in found


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ninference-header-content-length: 2\r\ncontent-length: 2\r\n\r\n[]",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: other\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n" + b" " * (5 << 20),
        b"nonsense\r\n\r\n",
        b"",
    ],
)
def test_whatever_the_other_server_says_the_next_copies_are_sent(models: Models, serve: Serve, said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = shadowed(serve, models.scores(), f"http://127.0.0.1:{other.getsockname()[1]}")
        for _ in range(3):
            ask(server.url, 1)
            connection, _ = other.accept()
            with connection, suppress(OSError):  # it may not want to hear all of it
                connection.recv(1 << 16)
                connection.sendall(said)
    assert counted(server, lambda found: found.get("failed") == 3) == {"failed": 3}


def test_copies_come_on_connections_that_are_kept(models: Models, serve: Serve) -> None:
    output = {"name": "y", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    head = json.dumps({"model_name": "scores", "outputs": [output]}).encode()
    body = head + np.array([16, 22], np.float32).tobytes()
    connections = []

    class Other(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            connections.append(self)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("inference-header-content-length", str(len(head)))
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        server = shadowed(serve, models.scores(), f"http://127.0.0.1:{other.server_port}")
        ask(server.url, 6)
        found = counted(server, lambda found: found.get("answered") == 6)
        server.process.terminate()  # and with it its connections, which the other would wait for
        other.shutdown()
        thread.join()
    assert found == {"answered": 6, "agreed": 6}
    assert len(connections) <= 2


def test_requests_that_are_large_are_not_copied(models: Models, serve: Serve) -> None:
    other = serve(models.echo("BYTES"))
    server = serve(models.echo("BYTES"), SHADOW=other.url, SHADOW_PERCENT="100")
    for words in (["a" * (1 << 20)], ["a"] * 5000, ["a"]):
        httpx.post(f"{server.url}/predict", json={"inputs": {"x": [words]}}, timeout=30)
        time.sleep(0.05)

    assert counted(server, lambda found: found.get("answered") == 1) == {"answered": 1, "skipped": 2, "agreed": 1}


def test_servers_that_shadow_each_other_copy_each_request_once(models: Models, serve: Serve) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
    server = shadowed(serve, models.scores(), f"http://127.0.0.1:{port}", REST_PORT=port)  # itself
    ask(server.url, 3)

    time.sleep(0.3)
    assert counted(server, lambda found: found.get("answered", 0) >= 3) == {"answered": 3, "agreed": 3}


def test_another_server_in_the_place_of_the_other_is_found(models: Models, serve: Serve) -> None:
    with ExitStack() as stack:
        first = start(stack, models.scores(), {"DRAIN_SECONDS": "0"})
        port = first.url.rpartition(":")[2]
        server = shadowed(serve, models.scores(), first.url)
        ask(server.url, 2)
        counted(server, lambda found: found.get("answered") == 2)
    serve(models.scores(), REST_PORT=port)
    ask(server.url, 2)

    assert counted(server, lambda found: found.get("answered") == 4) == {"answered": 4, "agreed": 4}


def test_a_version_of_a_collection_is_compared_with_the_same_version(
    models: Models, contrary: Path, serve: Serve
) -> None:
    several = {("scores", "1"): models.scores(), ("scores", "2"): contrary}
    folder = models.collection("two versions", several)
    server = serve(folder, SHADOW=serve(folder).url, SHADOW_PERCENT="100")
    for version in ("1", "2"):
        httpx.post(f"{server.url}/v2/models/scores/versions/{version}/infer", json=ASKED)
        time.sleep(0.02)

    def both(_: Counted) -> bool:
        text = httpx.get(f"{server.url}/metrics").text
        return all(f'outcome="agreed",revision="1",version="{version}"}} 1.0' in text for version in ("1", "2"))

    counted(server, both)


def test_no_more_than_a_hundred_requests_a_second_are_copied(models: Models, serve: Serve) -> None:
    server = shadowed(serve, models.scores(), serve(models.scores()).url)
    with httpx.Client(base_url=server.url) as client:
        began = time.monotonic()
        for _ in range(400):
            client.post("/v2/models/scores/infer", json=ASKED)
        spent = time.monotonic() - began

    ends = ("answered", "limited", "skipped")
    found = counted(server, lambda found: sum(found.get(name, 0) for name in ends) == 400)
    assert found["answered"] <= 100 * (spent + 0.1) + 1


def test_a_part_of_the_requests_is_copied(models: Models, serve: Serve) -> None:
    other = serve(models.scores())
    server = serve(models.scores(), SHADOW=other.url, SHADOW_PERCENT="50")
    ask(server.url, 40)

    assert 0 < counted(server, lambda found: found.get("answered", 0) > 0)["answered"] < 40


@pytest.mark.parametrize(
    ("ours", "theirs", "agreeing"),
    [
        ([[0.1, 0.9], [0.6, 0.4]], [[0.4, 0.6], [0.1, 0.9]], 1),
        ([[0.1, 0.9], [0.6, 0.4]], [[0.1, np.nan], [0.9, np.inf]], 0),
        ([[100.0], [100.0]], [[100.9], [101.1]], 1),
        ([1.0, 1.0], [1.0, np.nan], 1),
        ([[[1.0, 2.0]], [[0.0, 0.0]]], [[[1.0, 2.01]], [[0.0, 0.1]]], 1),
        ([[1], [2]], [[1], [3]], 1),
        ([[True, False]], [[True, True]], 0),
        ([["a"], ["b"]], [[b"a"], [b"c"]], 1),
        ([[1, 2], [5, 4]], [[1, 3], [4, 5]], 1),
        ([[], []], [[], []], 2),
        ([[0.1, 0.9]], [[0.1, 0.8, 0.1]], 0),
    ],
)
def test_rows_agree_by_their_class_or_nearly_or_exactly(ours: Any, theirs: Any, agreeing: int) -> None:
    left, right = (_array(item) for item in (ours, theirs))
    assert count_agreeing({"y": left}, {"y": right}, 0.01) == agreeing


def _array(listed: Any) -> Any:
    found = np.asarray(listed)
    return found.astype(object) if found.dtype.kind in "US" else found


def test_a_request_that_is_written_is_read_as_it_was_meant(models: Models, serve: Serve) -> None:
    server = serve(models.echo("BYTES"))
    words = np.array([["a", "bc"]], object)
    asked = asking.write_request({"x": words})
    headers = {"inference-header-content-length": str(asked.header_length)}

    answer = httpx.post(f"{server.url}/v2/models/echo-bytes/infer", content=asked.body, headers=headers)

    length = int(answer.headers["inference-header-content-length"])
    assert count_agreeing({"y": words}, asking.read_response(answer.content, length), 0.0) == 1
