"""Explanations as callers get them: from the model's own server, over the three protocols it speaks."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

ROW = [1.0, 2.0, 3.0]
TENSOR = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": ROW}]}
WEIGHTS = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.fixture
def server(models: Any, serve: Any) -> Any:
    return serve(models.scores(), EXPLAINER="process", REVISION="r7")


def ask(server: Any, path: str, content: Any, **query: Any) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json=content, params=query, timeout=60)


def test_a_person_is_told_which_columns_led_to_the_answer(server: Any) -> None:
    answer = ask(server, "/explain", [ROW])
    assert answer.status_code == 200, answer.text
    told = answer.json()
    (one,) = told["explanations"]
    # y = x W, so a column adds its value times its weight; the second score is the larger one.
    assert one["inputs"]["x"]["attributions"] == pytest.approx([1.0, 6.0, 15.0])
    assert (one["label"], one["target"], one["prediction"], one["base"]) == ("dog", 1, 22.0, 0.0)
    assert [item["feature"] for item in one["strongest"]] == ["x[2]", "x[1]", "x[0]"]
    assert told["method"] == "shap"
    assert told["complete"] is True


def test_another_method_class_and_number_of_samples_may_be_asked_for(server: Any) -> None:
    told = ask(server, "/explain", {"instances": [ROW]}, method="lime", target="cat", samples=300).json()
    (one,) = told["explanations"]
    assert (told["method"], told["samples"], one["label"], one["prediction"]) == ("lime", 300, "cat", 16.0)
    assert one["inputs"]["x"]["attributions"] == pytest.approx([0.0, 4.0, 12.0], abs=0.1)
    assert one["fit"] > 0.99


def test_the_protocol_gets_tensors(server: Any) -> None:
    tensor = {"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [*ROW, 0, 0, 1]}
    body = {"id": "7", "inputs": [tensor], "parameters": {"target": 0, "samples": 100}}
    for path in ("/v2/models/scores/explain", "/v2/models/scores/versions/r7/explain"):
        told = ask(server, path, body).json()
        outputs = {item["name"]: item for item in told["outputs"]}
        assert (told["id"], told["model_version"], told["parameters"]["method"]) == ("7", "r7", "shap")
        assert outputs["x.attributions"]["shape"] == [2, 3]
        np.testing.assert_allclose(outputs["x.attributions"]["data"], [0, 4, 12, 0, 0, 4], atol=1e-6)
        assert outputs["x.features"]["data"][:3] == ["x[0]", "x[1]", "x[2]"]
        assert outputs["target"]["data"] == [0, 0]
        assert outputs["prediction"]["data"] == [16, 4]


def test_a_timeout_of_nothing_or_too_much_is_as_long_as_the_explainer_may_take(server: Any) -> None:
    for timeout in (0, 10**15):
        told = ask(server, "/v2/models/scores/explain", TENSOR | {"parameters": {"timeout": timeout}})
        assert (told.status_code, told.json()["parameters"]["complete"]) == (200, True)


def test_more_than_a_few_at_once_are_refused_before_they_are_read(models: Any, serve: Any) -> None:
    slow = serve(models.slow(), EXPLAINER="process")
    row = [[0.0] * 1024]
    assert ask(slow, "/explain", row, method="lime", samples=16, timeout=1_000_000).status_code in (200, 504)
    with ThreadPoolExecutor(20) as callers:
        asked = [callers.submit(ask, slow, "/explain", row, samples=4000, timeout=2_000_000) for _ in range(20)]
        codes = [one.result().status_code for one in asked]
    assert codes.count(503) >= 8
    assert set(codes) <= {200, 503, 504}
    assert ask(slow, "/predict", row).status_code == 200


def test_version_one_is_spoken_too(server: Any) -> None:
    told = ask(server, "/v1/models/scores:explain", {"instances": [ROW, ROW]}).json()
    assert len(told["explanations"]) == 2


def test_tools_are_told_of_explanations_where_there_are_some(models: Any, serve: Any, server: Any) -> None:
    operation = httpx.get(f"{server.url}/openapi.json").json()["paths"]["/explain"]["post"]
    example = operation["requestBody"]["content"]["application/json"]["schema"]["example"]
    assert ask(server, "/explain", example).status_code == 200
    assert "/explain" not in httpx.get(f"{serve(models.scores()).url}/openapi.json").json()["paths"]


@pytest.mark.parametrize(
    ("path", "content", "query", "status", "text"),
    [
        ("/explain", [[1, 2]], {}, 400, "input x: shape"),
        ("/v2/models/%C3%A9%20/explain", {"inputs": []}, {}, 404, "scores version r7 is explained here"),
        ("/v2/models/scores/explain", TENSOR | {"parameters": {"method": []}}, {}, 400, "there is no method []"),
        ("/v2/models/scores/explain", TENSOR | {"parameters": {"inputs": 5}}, {}, 400, "the parameter inputs is 5"),
        ("/explain", [ROW], {"target": "9" * 5000}, 400, "there is no label '9999"),
        ("/explain", [ROW], {"method": "lime", "samples": "20001"}, 400, "the parameter samples is '20001'"),
        ("/explain", [ROW], {"method": "magic"}, 400, "there is no method 'magic'; there are shap, lime"),
        ("/explain", [ROW], {"samples": "10000000"}, 400, "the parameter samples is '10000000'"),
        ("/explain", [ROW], {"samples": "3"}, 400, "3 features need at least 6 samples for shap"),
        ("/explain", [ROW], {"target": "cow"}, 400, "there is no label 'cow' of output y; there are ['cat', 'dog']"),
        ("/explain", [ROW], {"target": "2"}, 400, "target 2 is none of the 2 numbers of output y"),
        ("/explain", [ROW], {"output": "z"}, 400, "there is no output z"),
        ("/explain", [ROW], {"inputs": "z"}, 400, "there is no input ['z'] to explain"),
        ("/explain", [ROW] * 17, {}, 400, "17 rows are too many"),
        ("/v2/models/other/explain", {"inputs": []}, {}, 404, "scores version r7 is explained here"),
    ],
)
def test_what_cannot_be_explained_is_refused_with_what_could(
    server: Any, path: str, content: Any, query: dict[str, str], status: int, text: str
) -> None:
    answer = ask(server, path, content, **query)
    assert (answer.status_code, text in answer.json()["error"]) == (status, True), answer.text


def test_without_an_explainer_the_server_says_how_to_get_one(models: Any, serve: Any) -> None:
    answer = ask(serve(models.scores()), "/explain", [ROW])
    assert answer.status_code == 404
    assert "set TRIMTAB_EXPLAINER" in answer.json()["error"]


def test_an_explainer_that_is_not_there_is_told_of_and_the_model_serves_on(models: Any, serve: Any) -> None:
    server = serve(models.scores(), EXPLAINER="http://127.0.0.1:9")
    assert ask(server, "/explain", [ROW]).status_code == 503
    assert ask(server, "/predict", [ROW]).status_code == 200


def test_an_explainer_that_cannot_start_is_told_of_and_the_model_serves_on(
    models: Any, serve: Any, tmp_path: Path
) -> None:
    server = serve(models.scores(), EXPLAINER="process", BACKGROUND=str(tmp_path))
    answer = ask(server, "/explain", [ROW])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "could not start" in answer.json()["error"]
    assert "a background is a folder with one .npz or .safetensors file" in server.wait_for("cannot serve")["cause"]
    assert ask(server, "/predict", [ROW]).status_code == 200


def test_rows_of_a_background_stand_in_for_what_is_hidden(models: Any, serve: Any, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=rows, label=np.zeros(8))
    server = serve(models.scores(), EXPLAINER="process", BACKGROUND=str(tmp_path))
    (one,) = ask(server, "/explain", [ROW], target=0).json()["explanations"]
    away = (np.array(ROW) - rows.mean(axis=0)) * WEIGHTS[:, 0]
    assert one["inputs"]["x"]["attributions"] == pytest.approx(away, abs=1e-5)
    assert one["base"] == pytest.approx((rows @ WEIGHTS)[:, 0].mean(), abs=1e-5)


def test_the_process_takes_what_is_left_and_ends_with_the_server_whatever_way_that_ends(server: Any) -> None:
    ask(server, "/explain", [ROW])
    pid = server.wait_for("explainer started")["pid"]
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    assert int(fields[16]) == 19  # its nice value
    os.kill(pid, signal.SIGKILL)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert ask(server, "/explain", [ROW]).status_code == 200  # by another one
    again = server.wait_for("explainer started")["pid"]
    server.process.kill()
    server.process.wait(30)
    while is_running(again):
        time.sleep(0.05)


def test_a_drain_ends_the_process(server: Any) -> None:
    ask(server, "/explain", [ROW])
    pid = server.wait_for("explainer started")["pid"]
    server.terminate()
    assert server.exit_code() == 0
    assert not is_running(pid)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
