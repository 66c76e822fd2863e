"""What a caller is told who asks for something that cannot be."""

import asyncio
import http.client
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from trimtab_runtime.dataplane import DataPlane
from trimtab_runtime.engine.batcher import Batcher, Limits
from trimtab_runtime.engine.costs import Costs
from trimtab_runtime.intake import Intake
from trimtab_runtime.model.session import load_model
from trimtab_runtime.server.endpoints import Endpoint, Endpoints
from trimtab_runtime.server.metrics import ServerMetrics
from trimtab_runtime.server.rest import make_app

INFER = "/v2/models/scores/infer"


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]} | changes


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (b"{", "the body is not JSON"),
        (b"[1, 2]", "has to be a JSON object"),
        (b"{}", 'needs "inputs"'),
        ({"inputs": {"x": 1}}, 'needs "inputs"'),
        ({"inputs": []}, "inputs [], expected ['x'], each once"),
        ({"inputs": [tensor(name="z")]}, "inputs ['z'], expected ['x'], each once"),
        ({"inputs": [tensor(), tensor()]}, "inputs ['x', 'x'], expected ['x'], each once"),
        ({"inputs": [tensor(datatype="INT64")]}, "input x: datatype INT64, expected FP32"),
        ({"inputs": [tensor(datatype=None)]}, "input x: datatype None, expected FP32"),
        ({"inputs": [tensor(shape=[1, 4])]}, "input x: shape [1, 4], expected [-1, 3]"),
        ({"inputs": [tensor(shape=[3])]}, "input x: shape [3], expected [-1, 3]"),
        ({"inputs": [tensor(shape=[0, 3], data=[])]}, "with a batch of at least 1"),
        ({"inputs": [tensor(shape=[-1, 3])]}, "input x: shape [-1, 3]"),
        ({"inputs": [tensor(shape=[True, 3])]}, "input x: shape [True, 3]"),
        ({"inputs": [tensor(shape=3)]}, 'needs "shape": a list, such as [-1, 3]'),
        ({"inputs": [tensor(shape=[1 << 62, 3])]}, "3 elements do not fill shape"),
        ({"inputs": [tensor(data=[1, 2])]}, "2 elements do not fill shape [1, 3]"),
        ({"inputs": [tensor(data=[[1], [2], [3]])]}, "data of shape [3, 1] do not fill shape [1, 3]"),
        ({"inputs": [tensor(data=[[1, 2], [3]])]}, "input x: the data is not FP32"),
        ({"inputs": [tensor(data=["1", "2", "3"])]}, "input x: the data is not FP32"),
        ({"inputs": [tensor(data=[1, None, 3])]}, "input x: the data is not FP32"),
        ({"inputs": [tensor(data=[1, 2, 1e300])]}, "input x: the data is not FP32"),
        ({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32"}]}, 'needs "data", or binary_data_size'),
        ({"inputs": [tensor(parameters={"binary_data_size": 12})]}, "binary_data_size is 12, but 0 bytes are left"),
        ({"inputs": [tensor()], "outputs": [{"name": "z"}]}, "there is no output ['z']; the model has ['y']"),
        ({"inputs": [tensor()], "outputs": ["y"]}, '"outputs" has to be a list of {name}'),
        ({"inputs": [tensor()], "id": [1]}, '"id" has to be text'),
        (b'{"inputs": [{"name": "x", "shape": [1, 3], "datatype": ' + b"[" * 900 + b"]" * 900 + b"}]}", ""),
    ],
)
def test_a_request_that_does_not_fit_is_told_what_was_expected(http: httpx.Client, asked: Any, told: str) -> None:
    answer = http.post(INFER, content=asked) if isinstance(asked, bytes) else http.post(INFER, json=asked)
    assert answer.status_code == 400
    assert told in answer.json()["error"]


@pytest.mark.parametrize(
    ("length", "body", "told"),
    [
        ("x", b"{}", "Inference-Header-Content-Length is x"),
        ("\u00b2", b"{}", "Inference-Header-Content-Length is"),
        ("1" * 5000, b"{}", "Inference-Header-Content-Length is 1"),
        ("99", b"{}", "but the body has 2 bytes"),
        ("0", b"12345", "5 bytes do not fill shape [1, 3]; 12 would"),
    ],
)
def test_raw_tensors_have_to_add_up(http: httpx.Client, length: str, body: bytes, told: str) -> None:
    answer = http.post(INFER, content=body, headers={"Inference-Header-Content-Length": length.encode("latin-1")})
    assert answer.status_code == 400
    assert told in answer.json()["error"]


def test_bytes_after_the_last_tensor_are_refused(http: httpx.Client) -> None:
    head = b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2,3]}]}'
    answer = http.post(INFER, content=head + b"....", headers={"Inference-Header-Content-Length": str(len(head))})
    assert answer.json() == {"error": "4 bytes are left after the last tensor"}


@pytest.mark.parametrize("asked", [b"x", b"{}", b'{"inputs": [1]}', b"3", b'{"inputs": {"z": [1]}}', b"[]", b"[[1]]"])
def test_predict_tells_which_forms_it_understands(http: httpx.Client, asked: bytes) -> None:
    answer = http.post("/predict", content=asked)
    assert answer.status_code == 400
    assert "x" in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/other/ready", 404),
        ("GET", "/v2/models/scores/versions/r9", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/models/scores/versions/r9/infer", 404),
        ("GET", INFER, 405),
        ("POST", "/v2/health/ready", 405),
    ],
)
def test_what_is_not_there_is_an_error_in_json(http: httpx.Client, method: str, path: str, status: int) -> None:
    answer = http.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}


def test_a_body_that_announces_too_much_is_refused_before_it_is_sent(http: httpx.Client) -> None:
    connection = http_connection(http)
    connection.putrequest("POST", INFER)
    connection.putheader("Content-Length", str((64 << 20) + 1))
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, b"at most" in answer.read()) == (413, True)


def test_a_body_in_chunks_is_refused_once_it_is_too_large(http: httpx.Client) -> None:
    piece = b" " * (1 << 20)
    answer = http.post(INFER, content=(piece for _ in range(66)))
    assert answer.status_code == 413


def test_what_is_no_http_ends_the_connection_and_nothing_else(http: httpx.Client) -> None:
    with socket.create_connection((http.base_url.host, http.base_url.port or 0), timeout=10) as raw:
        raw.sendall(b"\x00\x01 nonsense\r\n\r\n")
        assert raw.recv(1000).startswith(b"HTTP/1.1 400")
    assert http.get("/v2/health/ready").status_code == 200


def test_a_model_that_fails_is_a_server_error_without_its_inside(models: Any, serve: Any) -> None:
    server = serve(models.fragile(), PROTOCOLS="rest")
    answer = httpx.post(f"{server.url}/predict", json={"inputs": {"index": [9]}})
    assert (answer.status_code, "Gather" in answer.text) == (500, False)
    assert "Gather" in server.wait_for("inference failed")["traceback"]
    assert httpx.post(f"{server.url}/predict", json={"inputs": {"index": [3]}}).status_code == 200


async def test_a_server_with_a_full_queue_says_when_to_try_again(models: Any) -> None:
    model, busy = load_model(models.scores(), threads=1), threading.Event()

    def run(feeds: Any) -> Any:
        assert busy.wait(30)
        return model.run(feeds)

    batcher = Batcher(run, Limits(1, queued_rows=1), Costs((1,), (1e-6,)))
    endpoint = Endpoint(DataPlane("scores", "1", model, batcher), ServerMetrics("scores", "1"))
    app = make_app(Endpoints("scores", "1", [endpoint], Intake(1 << 20)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
        asked = [asyncio.create_task(client.post("/predict", json=[[1, 2, 3]])) for _ in range(3)]
        refused, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        busy.set()
        answers = await asyncio.gather(*asked)
    assert {(task.result().status_code, task.result().headers["retry-after"]) for task in refused} == {(503, "1")}
    assert {answer.status_code for answer in answers} == {200, 503}


def test_who_waits_too_short_for_a_queue_is_refused_before_the_request_is_read(models: Any, serve: Any) -> None:
    """Seen by what is wrong with it, which is not told then."""
    slow = serve(models.slow(), PROTOCOLS="rest", MAX_BATCH_SIZE="1", MAX_WAIT_SECONDS="60")
    rows = json.dumps([[0.0] * 1024] * 100)
    wrong = json.dumps({"inputs": [], "parameters": {"timeout": 1}})

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(httpx.post, f"{slow.url}/predict", content=rows, timeout=60) for _ in range(8)]
        codes = []
        while not all(item.done() for item in asked):
            codes.append(httpx.post(f"{slow.url}/v2/models/slow/infer", content=wrong).status_code)

    assert httpx.post(f"{slow.url}/v2/models/slow/infer", content=wrong).status_code == 400
    assert 503 in codes


def http_connection(client: httpx.Client) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=10)
