"""What clients of TensorFlow Serving, and of KServe's version 1, ask and get."""

import base64
from typing import Any

import httpx
import pytest

PREDICT = "/v1/models/scores:predict"


@pytest.mark.parametrize("model", ["/v1/models/scores", "/v1/models/scores/versions/r1"])
def test_rows_give_predictions_and_columns_give_outputs(http: httpx.Client, model: str) -> None:
    rows = [[1, 2, 3], [0, 0, 1]]
    scores = [[16.0, 22.0], [4.0, 5.0]]

    assert http.post(f"{model}:predict", json={"instances": rows}).json() == {"predictions": scores}
    assert http.post(f"{model}:predict", json={"instances": [{"x": row} for row in rows]}).json() == {
        "predictions": scores
    }
    assert http.post(f"{model}:predict", json={"inputs": rows}).json() == {"outputs": scores}
    named = {"signature_name": "serving_default", "inputs": {"x": rows}}
    assert http.post(f"{model}:predict", json=named).json() == {"outputs": scores}


def test_several_inputs_and_outputs_keep_their_names(models: Any, shared: Any) -> None:
    url = f"{shared(models.two_inputs()).url}/v1/models/sums:predict"
    rows = [{"a": [1, 2], "b": [3, 4]}, {"b": [0, 0], "a": [5, 6]}]

    assert httpx.post(url, json={"instances": rows}).json() == {
        "predictions": [{"total": [4, 6], "difference": [-2, -2]}, {"total": [5, 6], "difference": [5, 6]}]
    }
    assert httpx.post(url, json={"inputs": {"a": [[1, 2]], "b": [[3, 4]]}}).json() == {
        "outputs": {"total": [[4, 6]], "difference": [[-2, -2]]}
    }


def test_text_may_come_in_base64(models: Any, shared: Any) -> None:
    url = f"{shared(models.echo('BYTES')).url}/v1/models/echo-bytes:predict"
    coded = {"b64": base64.b64encode("grün".encode()).decode()}

    assert httpx.post(url, json={"instances": [["a", "b"]]}).json() == {"predictions": [["a", "b"]]}
    assert httpx.post(url, json={"instances": [[coded, coded]]}).json() == {"predictions": [["grün", "grün"]]}
    assert httpx.post(url, json={"inputs": {"x": [[coded]]}}).json() == {"outputs": [["grün"]]}


def test_a_model_says_that_it_is_there_and_what_it_takes(http: httpx.Client) -> None:
    assert http.get("/v1/models").json() == {"models": ["scores"]}
    status = http.get("/v1/models/scores").json()
    assert (status["name"], status["ready"]) == ("scores", True)
    assert [item["state"] for item in status["model_version_status"]] == ["AVAILABLE"]
    found = http.get("/v1/models/scores/metadata").json()
    signature = found["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "3", "name": ""}], "unknown_rank": False},
        "name": "x",
    }


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (b"{", "the body is not JSON"),
        ([1], "exactly one of"),
        ({}, "exactly one of"),
        ({"instances": [[1, 2, 3]], "inputs": [[1, 2, 3]]}, "exactly one of"),
        ({"instances": []}, "at least one row"),
        ({"instances": {"x": [1]}}, "at least one row"),
        ({"instances": [[1, 2]]}, "input x: shape [1, 2], expected [-1, 3]"),
        ({"instances": [1, 2, 3]}, "input x: shape [3], expected [-1, 3]"),
        ({"instances": [{"x": [1, 2, 3]}, {"z": [1, 2, 3]}]}, "the same inputs"),
        ({"instances": [{"z": [1, 2, 3]}]}, "inputs ['z'], expected ['x']"),
        ({"inputs": {"z": [[1, 2, 3]]}}, "inputs ['z'], expected ['x']"),
        ({"instances": [{"b64": "!"}]}, '{"b64": text}'),
        ({"instances": [[{"a": 1}]]}, '{"b64": text}'),
        ({"instances": [["1", "2", "3"]]}, "the data is not FP32"),
        ({"signature_name": "other", "instances": [[1, 2, 3]]}, "there is no signature other"),
    ],
)
def test_what_cannot_be_is_told(http: httpx.Client, asked: Any, told: str) -> None:
    answer = http.post(PREDICT, content=asked) if isinstance(asked, bytes) else http.post(PREDICT, json=asked)

    assert answer.status_code == 400
    assert told in answer.json()["error"]


@pytest.mark.parametrize("path", ["/v1/models/other", "/v1/models/other/metadata", "/v1/models/scores/versions/9"])
def test_another_model_is_not_there(http: httpx.Client, path: str) -> None:
    assert http.get(path).status_code == 404
    assert set(http.get(path).json()) == {"error"}
