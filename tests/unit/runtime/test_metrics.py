"""What an analysis reads from a pod."""

import socket
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx
import pytest
from onnx import helper
from prometheus_client.parser import text_string_to_metric_families

from trimtab_runtime.protocol import oip_pb2, oip_pb2_grpc

Stub: Any = oip_pb2_grpc.GRPCInferenceServiceStub
LABELS = {"model": "scores", "revision": "r7"}


@pytest.fixture
def server(models: Any, serve: Any) -> Any:
    return serve(models.scores(), REVISION="r7")


def read(server: Any) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = httpx.get(f"{server.url}/metrics").text
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset((LABELS | labels).items())


def test_inference_calls_are_counted_by_protocol_and_outcome(server: Any) -> None:
    for content in ([[1, 2, 3]], [[1, 2, 3]], [[1]]):
        httpx.post(f"{server.url}/predict", json=content)
    httpx.post(f"{server.url}/v2/models/other/infer", json={})
    with grpc.insecure_channel(server.grpc) as channel:
        infer = Stub(channel).ModelInfer
        asked = oip_pb2.ModelInferRequest(model_name="scores")
        asked.inputs.add(name="x", datatype="FP32", shape=[1, 3]).contents.fp32_contents.extend([1, 2, 3])
        infer(asked)
        for name in ("scores", "other"):
            with pytest.raises(grpc.RpcError):
                infer(oip_pb2.ModelInferRequest(model_name=name))
    found = read(server)
    counted = {
        (dict(labels)["protocol"], dict(labels)["code"]): value
        for (name, labels), value in found.items()
        if name == "trimtab_requests_total"
    }
    assert counted == {
        ("rest", "200"): 2,
        ("rest", "400"): 1,
        ("rest", "404"): 1,
        ("grpc", "OK"): 1,
        ("grpc", "INVALID_ARGUMENT"): 1,
        ("grpc", "NOT_FOUND"): 1,
    }
    assert found[key("trimtab_request_duration_seconds_count", protocol="rest")] == 4
    assert found[key("trimtab_request_duration_seconds_count", protocol="grpc")] == 3
    assert found[("trimtab_inflight_requests", frozenset())] == 0
    assert found[key("trimtab_batch_rows_sum")] == 3
    assert found[key("trimtab_model_info")] == 1


@pytest.mark.parametrize(("tolerance", "safe"), [("0.0001", 1), ("0", 0)])
def test_how_a_server_batches_is_among_the_metrics(models: Any, serve: Any, tolerance: str, safe: int) -> None:
    folder = models.scores() if safe else batch_normalized(models)
    found = {name: value for (name, _), value in read(serve(folder, BATCH_TOLERANCE=tolerance)).items()}
    assert found["trimtab_batching_safe"] == safe
    assert (found["trimtab_batching_difference"] > 0) == (not safe)
    assert (found["trimtab_batching_rows"] == 1) == (not safe)


def batch_normalized(models: Any) -> Any:
    """Return a model that takes the mean of all rows from each: rows do not mix."""
    mean = helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1)
    nodes = [mean, helper.make_node("Sub", ["x", "m"], ["y"])]
    shape = ("FP32", (-1, 3))
    return models.write("centred", nodes, {"x": shape}, {"y": shape})


def test_probes_metadata_and_scrapes_do_not_count(server: Any) -> None:
    for path in ("/v2/health/ready", "/v2/health/live", "/healthz", "/metrics", "/v2", "/v2/models/scores", "/nothing"):
        httpx.get(f"{server.url}{path}")
    with grpc.insecure_channel(server.grpc) as channel:
        Stub(channel).ServerReady(oip_pb2.ServerReadyRequest())
    assert not [name for name, _ in read(server) if name.startswith(("trimtab_requests", "trimtab_request_dur"))]


def test_times_from_a_tenth_of_a_millisecond_to_ten_seconds_are_told_apart(server: Any) -> None:
    httpx.post(f"{server.url}/predict", json=[[1, 2, 3]])
    bounds = {
        float(dict(labels)["le"]) for name, labels in read(server) if name == "trimtab_request_duration_seconds_bucket"
    }
    assert min(bounds) == 0.0001
    assert sorted(bounds)[-2:] == [10.0, float("inf")]


def test_a_caller_that_left_is_nobodys_error_but_a_deadline_that_passed_is_told_apart(models: Any, serve: Any) -> None:
    slow = serve(models.slow())
    rows = bytes(4 * 1024 * 300)
    asked = oip_pb2.ModelInferRequest(model_name="slow", raw_input_contents=[rows])
    asked.inputs.add(name="x", datatype="FP32", shape=[300, 1024])
    with grpc.insecure_channel(slow.grpc) as channel:
        infer = Stub(channel).ModelInfer
        leaving = infer.future(asked)
        wait_for(slow, "trimtab_inflight_requests 1.0")
        leaving.cancel()
        wait_for(slow, 'trimtab_requests_total{code="CANCELLED"')
        while 'trimtab_requests_total{code="DEADLINE_EXCEEDED"' not in httpx.get(f"{slow.url}/metrics").text:
            with pytest.raises(grpc.RpcError):  # refused, where what the first one began still runs
                infer(asked, timeout=0.05)
    with socket.create_connection(("127.0.0.1", urlsplit(slow.url).port or 0)) as leaver:
        leaver.sendall(b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\n[[1,")
        wait_for(slow, "trimtab_inflight_requests 1.0")
    wait_for(slow, 'trimtab_requests_total{code="499"')


def wait_for(server: Any, line: str) -> None:
    """Ask until the metrics have this line; the test's own time limit ends it."""
    while line not in httpx.get(f"{server.url}/metrics").text:
        assert server.process.poll() is None
