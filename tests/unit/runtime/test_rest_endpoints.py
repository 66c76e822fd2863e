"""Every REST endpoint, asked of a real server."""

import struct
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

INFER = "/v2/models/scores/infer"
LENGTH = "Inference-Header-Content-Length"


def body(rows: list[list[float]], **more: Any) -> dict[str, Any]:
    shape = [len(rows), 3]
    return {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": rows}], **more}


def test_the_server_says_what_it_is_with_and_without_a_slash(http: httpx.Client) -> None:
    wanted = {"name": "trimtab", "version": "0.1.0", "extensions": ["binary_tensor_data"]}
    assert http.get("/v2").json() == wanted
    assert http.get("/v2/").json() == wanted


@pytest.mark.parametrize("path", ["/v2/health/live", "/healthz"])
def test_a_running_server_is_live(http: httpx.Client, path: str) -> None:
    assert (http.get(path).status_code, http.get(path).json()) == (200, {"live": True})


def test_a_server_that_answers_is_ready(http: httpx.Client) -> None:
    assert http.get("/v2/health/ready").json() == {"ready": True}


@pytest.mark.parametrize("model", ["/v2/models/scores", "/v2/models/scores/versions/r1"])
def test_a_model_is_described_with_and_without_its_version(http: httpx.Client, model: str) -> None:
    assert http.get(model).json() == {
        "name": "scores",
        "versions": ["r1"],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    }
    assert http.get(f"{model}/ready").json() == {"name": "scores", "ready": True}
    assert http.post(f"{model}/infer", json=body([[1, 2, 3]])).status_code == 200


def test_an_inference_carries_the_id_the_name_and_the_version(http: httpx.Client) -> None:
    assert http.post(INFER, json=body([[1, 2, 3], [0, 0, 1]], id="a7")).json() == {
        "id": "a7",
        "model_name": "scores",
        "model_version": "r1",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [16.0, 22.0, 4.0, 5.0]}],
    }


def test_flat_data_means_the_same_as_nested(http: httpx.Client) -> None:
    flat = body([[1, 2, 3]])
    flat["inputs"][0]["data"] = [1, 2, 3]
    assert http.post(INFER, json=flat).json() == http.post(INFER, json=body([[1, 2, 3]])).json()


def test_only_the_outputs_asked_for_come_back(models: Any, shared: Any) -> None:
    sums = shared(models.two_inputs())
    inputs = [{"name": name, "shape": [1, 2], "datatype": "INT64", "data": [5, 7]} for name in ("b", "a")]
    asked = {"inputs": inputs, "outputs": [{"name": "difference"}]}
    answer = httpx.post(f"{sums.url}/v2/models/sums/infer", json=asked).json()
    assert [(item["name"], item["data"]) for item in answer["outputs"]] == [("difference", [0, 0])]


def test_raw_tensors_follow_the_json_part_both_ways(http: httpx.Client) -> None:
    rows = np.array([[1, 2, 3]], dtype="<f4")
    content = {
        "inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    }
    head = orjson.dumps(content)
    answer = http.post(INFER, content=head + rows.tobytes(), headers={LENGTH: str(len(head))})
    length = int(answer.headers[LENGTH])
    assert orjson.loads(answer.content[:length])["outputs"][0]["parameters"] == {"binary_data_size": 8}
    assert np.frombuffer(answer.content[length:], "<f4").tolist() == [16.0, 22.0]


def test_all_outputs_are_raw_where_the_request_says_so(http: httpx.Client) -> None:
    answer = http.post(INFER, json=body([[1, 2, 3]], parameters={"binary_data_output": True}))
    assert np.frombuffer(answer.content[int(answer.headers[LENGTH]) :], "<f4").tolist() == [16.0, 22.0]


def test_a_body_of_raw_bytes_alone_is_the_single_input(http: httpx.Client) -> None:
    answer = http.post(INFER, content=struct.pack("<6f", 1, 2, 3, 0, 0, 1), headers={LENGTH: "0"})
    assert np.frombuffer(answer.content[int(answer.headers[LENGTH]) :], "<f4").tolist() == [16.0, 22.0, 4.0, 5.0]


@pytest.mark.parametrize(
    "asked",
    [{"inputs": {"x": [[1, 2, 3]]}}, {"instances": [[1, 2, 3]]}, [[1, 2, 3]], [1, 2, 3], [{"x": [1, 2, 3]}]],
    ids=["named", "instances", "bare", "one bare row", "records"],
)
def test_predict_takes_the_forms_a_person_writes(http: httpx.Client, asked: Any) -> None:
    assert http.post("/predict", json=asked).json() == {"predictions": [{"y": [16.0, 22.0], "label": "dog"}]}


def test_predict_gives_every_output_of_a_row_without_labels(models: Any, shared: Any) -> None:
    sums = shared(models.two_inputs())
    answer = httpx.post(f"{sums.url}/predict", json={"inputs": {"a": [[1, 2]], "b": [[3, 4]]}}).json()
    assert answer == {"predictions": [{"total": [4, 6], "difference": [-2, -2]}]}
    records = {"instances": [{"a": [1, 2], "b": [3, 4]}]}
    assert httpx.post(f"{sums.url}/predict", json=records).json() == answer


def test_predict_takes_and_gives_text(models: Any, shared: Any) -> None:
    echo = shared(models.echo("BYTES"))
    answer = httpx.post(f"{echo.url}/predict", json=[["fü", ""], ["b", "c"]]).json()
    assert answer == {"predictions": [{"y": ["fü", ""]}, {"y": ["b", "c"]}]}


def test_a_name_from_outside_replaces_that_of_the_package(models: Any, serve: Any) -> None:
    server = serve(models.scores(), MODEL_NAME="digits", REVISION="digits-5f7c", PROTOCOLS="rest")
    assert httpx.get(f"{server.url}/v2/models/digits").json()["versions"] == ["digits-5f7c"]
    assert httpx.get(f"{server.url}/v2/models/scores").status_code == 404


def test_rest_without_inference_keeps_health_and_metrics(models: Any, serve: Any) -> None:
    server = serve(models.scores(), PROTOCOLS="grpc")
    assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200
    assert httpx.get(f"{server.url}/metrics").status_code == 200
    assert httpx.post(f"{server.url}{INFER}", json=body([[1, 2, 3]])).status_code == 404
    assert httpx.post(f"{server.url}/predict", json=[[1, 2, 3]]).status_code == 404
