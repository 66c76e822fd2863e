"""Several models, and versions of one, in one server: each is asked for by name and counted by itself."""

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from onnx import helper
from prometheus_client.parser import text_string_to_metric_families

from trimtab_api.errors import InvalidPackage
from trimtab_runtime.dataplane import DataPlane
from trimtab_runtime.engine.batcher import Batcher, Limits
from trimtab_runtime.engine.costs import Costs
from trimtab_runtime.engine.turns import Turns
from trimtab_runtime.intake import Intake
from trimtab_runtime.model.manifest import read_manifest
from trimtab_runtime.model.session import load_model
from trimtab_runtime.protocol import oip_pb2, oip_pb2_grpc
from trimtab_runtime.protocol.errors import Busy
from trimtab_runtime.server.endpoints import Endpoint, Endpoints
from trimtab_runtime.server.metrics import ServerMetrics
from trimtab_testing.servers import Models, Serve, Serving

Stub: Any = oip_pb2_grpc.GRPCInferenceServiceStub
ROW = [1.0, 2.0, 3.0]
ASKED = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": ROW}]}
ANSWERS = {None: [16.0, 22.0], "1": [16.0, 22.0], "2": [-16.0, -22.0]}  # of scores, by version


def times(models: Models, name: str, factor: float) -> Path:
    """y = factor x W, with the weights of models.scores()."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weights = {"w": factor * np.arange(6, dtype=np.float32).reshape(3, 2)}
    return models.write(name, [node], {"x": ("FP32", (-1, 3))}, {"y": ("FP32", (-1, 2))}, weights)


@pytest.fixture(scope="session")
def folder(models: Models) -> Path:
    plain, negative = times(models, "plain", 1), times(models, "negative", -1)
    several = {("scores", "1"): plain, ("scores", "2"): negative, ("sums", None): models.two_inputs()}
    return models.collection("several", several)


@pytest.fixture(params=["1", "0"], ids=["fast path", "framework"])
def server(folder: Path, shared: Serve, request: pytest.FixtureRequest) -> Serving:
    return shared(folder, FAST_PATH=request.param)


@pytest.fixture(params=["lean", "grpcio"])
def stub(folder: Path, shared: Serve, request: pytest.FixtureRequest) -> Any:
    with grpc.insecure_channel(shared(folder, GRPC_ENGINE=request.param).grpc) as channel:
        yield Stub(channel)


@pytest.mark.parametrize("version", ANSWERS)
def test_a_version_is_asked_for_by_its_number_and_the_first_one_without(server: Serving, version: str | None) -> None:
    path = "/v2/models/scores" + (f"/versions/{version}" if version else "")
    with httpx.Client(base_url=server.url) as client:
        for _ in range(3):  # the fast path takes the first as it comes, and knows the others again
            answer = client.post(f"{path}/infer", json=ASKED).json()
            assert (answer["model_name"], answer["model_version"]) == ("scores", version or "1")
            assert answer["outputs"][0]["data"] == ANSWERS[version]


@pytest.mark.parametrize("version", ANSWERS)
def test_over_grpc_a_version_is_asked_for_in_the_same_way(stub: Any, version: str | None) -> None:
    asked = oip_pb2.ModelInferRequest(model_name="scores", model_version=version or "")
    asked.inputs.add(name="x", datatype="FP32", shape=[1, 3]).contents.fp32_contents.extend(ROW)

    answer = stub.ModelInfer(asked)

    assert answer.model_version == (version or "1")
    assert list(answer.outputs[0].contents.fp32_contents) == ANSWERS[version]


def test_calls_of_all_models_on_one_connection_get_their_own_answers(server: Serving) -> None:
    with httpx.Client(base_url=server.url) as client:
        for number in range(20):
            version = str(1 + number % 2)
            answer = client.post(f"/v2/models/scores/versions/{version}/infer", json=ASKED).json()
            assert answer["outputs"][0]["data"] == ANSWERS[version]
            sums = {"inputs": {"a": [[number, 1]], "b": [[1, 1]]}}
            assert client.post("/predict/sums", json=sums).json()["predictions"][0]["total"] == [number + 1, 2]


def test_a_person_reaches_the_first_model_by_predict_alone_and_all_by_their_names(server: Serving) -> None:
    for path, version in (("", None), ("/scores", None), ("/scores/versions/2", "2")):
        answer = httpx.post(f"{server.url}/predict{path}", json=[ROW]).json()
        assert answer["predictions"][0]["y"] == ANSWERS[version]


def test_tensorflow_s_clients_find_every_version(server: Serving) -> None:
    versions = httpx.get(f"{server.url}/v1/models/scores").json()["model_version_status"]
    assert [(item["version"], item["state"]) for item in versions] == [("1", "AVAILABLE"), ("2", "AVAILABLE")]
    answer = httpx.post(f"{server.url}/v1/models/scores/versions/2:predict", json={"instances": [ROW]}).json()
    assert answer["predictions"] == [ANSWERS["2"]]


def test_metadata_names_all_versions_and_a_model_without_one_has_the_server_s(server: Serving) -> None:
    def metadata(path: str) -> dict[str, Any]:
        return dict(httpx.get(f"{server.url}/v2/models/{path}").json())

    assert httpx.get(f"{server.url}/v2/models").json() == {"models": ["scores", "sums"]}
    assert metadata("scores")["versions"] == metadata("scores/versions/2")["versions"] == ["1", "2"]
    assert (metadata("sums")["versions"], metadata("sums")["inputs"][0]["name"]) == (["r1"], "a")
    assert httpx.get(f"{server.url}/v2/models/scores/versions/2/ready").json() == {"name": "scores", "ready": True}


def test_grpc_describes_every_model(stub: Any) -> None:
    assert list(stub.ModelMetadata(oip_pb2.ModelMetadataRequest(name="scores")).versions) == ["1", "2"]
    assert stub.ModelReady(oip_pb2.ModelReadyRequest(name="sums", version="r1")).ready
    with pytest.raises(grpc.RpcError, match="there is no model sums version 2; this server has scores version 1"):
        stub.ModelMetadata(oip_pb2.ModelMetadataRequest(name="sums", version="2"))


def test_a_model_that_is_not_there_is_told_with_those_that_are(server: Serving) -> None:
    answer = httpx.post(f"{server.url}/v2/models/scores/versions/3/infer", json=ASKED)
    assert (answer.status_code, answer.json()["error"]) == (
        404,
        "there is no model scores version 3; this server has scores version 1, scores version 2, sums version r1",
    )


def test_each_model_has_metrics_of_its_own_over_all_processes(folder: Path, serve: Serve) -> None:
    server = serve(folder, WORKERS="2", REVISION="r1")
    with httpx.Client(base_url=server.url, headers={"connection": "close"}) as client:
        for path, calls in {"/v2/models/scores/versions/2/infer": 5, "/v2/models/scores/infer": 3}.items():
            for _ in range(calls):
                assert client.post(path, json=ASKED).status_code == 200
        client.post("/v2/models/sums/infer", json=ASKED)
        client.post("/v2/models/nothing/infer", json=ASKED)
        client.post("/v2/models/sums/versions/7/infer", json=ASKED)
        text = client.get("/metrics").text
    families = list(text_string_to_metric_families(text))
    lines = [line for family in families for line in family.samples]
    counted = {
        (line.labels["model"], line.labels.get("version"), line.labels["code"]): line.value
        for line in lines
        if line.name == "trimtab_requests_total"
    }
    assert counted == {
        ("scores", "2", "200"): 5,
        ("scores", "1", "200"): 3,
        ("scores", "1", "404"): 1,  # nobody's call is counted with the first model
        ("sums", None, "404"): 1,  # of a version that is not there
        ("sums", None, "400"): 1,
    }
    assert {line.labels["revision"] for line in lines if "model" in line.labels} == {"r1"}
    assert len({family.name for family in families}) == len(families)
    assert [line.value for line in lines if line.name == "trimtab_process_starts_total"] == [2]
    assert [line.value for line in lines if line.name == "trimtab_inflight_requests"] == [0]
    assert sum(line.value for line in lines if line.name == "trimtab_batch_rows_sum") == 8


@pytest.mark.parametrize("engine", ["lean", "grpcio"])
def test_calls_over_grpc_are_counted_with_their_model(folder: Path, serve: Serve, engine: str) -> None:
    server = serve(folder, GRPC_ENGINE=engine)
    asked = oip_pb2.ModelInferRequest(model_name="scores", model_version="2")
    asked.inputs.add(name="x", datatype="FP32", shape=[1, 3]).contents.fp32_contents.extend(ROW)
    with grpc.insecure_channel(server.grpc) as channel:
        Stub(channel).ModelInfer(asked)
        asked.model_version = "9"
        with pytest.raises(grpc.RpcError):
            Stub(channel).ModelInfer(asked)
        with pytest.raises(grpc.RpcError):
            Stub(channel).ModelInfer(oip_pb2.ModelInferRequest(model_name="sums", model_version="9"))
    families = text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text)
    lines = [line for family in families for line in family.samples]
    counted = {
        (line.labels["model"], line.labels.get("version"), line.labels["code"]): line.value
        for line in lines
        if line.name == "trimtab_requests_total"
    }
    assert counted == {
        ("scores", "2", "OK"): 1,
        ("scores", "1", "NOT_FOUND"): 1,
        ("sums", None, "NOT_FOUND"): 1,
    }
    assert [line.value for line in lines if line.name == "trimtab_inflight_requests"] == [0]


def fill(batcher: Batcher) -> int:
    """Ask until no more is taken, and return how often something was."""
    feeds, taken = {"x": np.zeros((1, 3), np.float32)}, 0
    try:
        while True:
            batcher.submit(feeds, lambda result: None)
            taken += 1
    except Busy:
        return taken


def test_there_is_room_in_a_server_while_one_of_its_models_has_some(models: Models) -> None:
    """So a call is read then; where none has room, it is not."""
    batchers = [Batcher(lambda feeds: feeds, Limits(1), Costs((1,), (0.05,)), in_loop=True) for _ in range(2)]
    model = load_model(models.scores(), threads=1)
    served = [
        Endpoint(DataPlane(name, "1", model, batcher), ServerMetrics(name, "1"))
        for name, batcher in zip("ab", batchers, strict=True)
    ]
    endpoints = Endpoints("both", "1", served, Intake(1 << 20))

    async def scenario() -> None:
        for batcher in batchers:
            endpoints.check_room(None)
            fill(batcher)
        with pytest.raises(Busy):
            endpoints.check_room(None)

    asyncio.run(scenario())


def test_the_document_has_every_model_with_an_example_that_is_answered(server: Serving) -> None:
    paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    found = [path for path in paths if path.startswith("/predict")]
    for path in found:
        content = paths[path]["post"]["requestBody"]["content"]["application/json"]
        assert httpx.post(f"{server.url}{path}", json=content["schema"]["example"]).status_code == 200, path
    assert {"/predict", "/predict/scores", "/predict/scores/versions/2", "/predict/sums/versions/r1"} <= set(found)


def test_a_damaged_model_keeps_all_from_being_served_and_is_named(models: Models, serve: Any) -> None:
    folder = models.collection("damaged", {("a", None): models.scores(), ("b", None): models.scores()})
    (folder / "models/1/model.onnx").write_bytes(b"nothing")
    with pytest.raises(AssertionError, match=r"InvalidPackage.*the model in models/1: model.onnx cannot be loaded"):
        serve(folder)


def test_who_asks_a_collection_for_an_explanation_is_told_that_there_is_none(folder: Path, shared: Serve) -> None:
    """Its server may know of an explainer all the same: the operator names one to every server, to be added later."""
    url = shared(folder, EXPLAINER="http://127.0.0.1:9").url
    answer = httpx.post(f"{url}/v2/models/scores/explain", json=[ROW])
    assert (answer.status_code, answer.json()["error"]) == (
        404,
        "models of a collection are not explained; serve the model by itself, with an explainer",
    )


def test_who_asks_one_model_is_answered_while_another_is_overloaded(models: Models, serve: Serve) -> None:
    several = {("slow", None): models.slow(), ("scores", None): models.scores()}
    server = serve(models.collection("unfair", several), MAX_WAIT_SECONDS="0.2")
    rows = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [8, 1024], "data": [0.0] * 8192}]})
    over, codes = threading.Event(), []

    def flood() -> None:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            while not over.is_set():
                codes.append(client.post("/v2/models/slow/infer", content=rows).status_code)

    with ThreadPoolExecutor(24) as pool, httpx.Client(base_url=server.url, timeout=60) as client:
        flooding = [pool.submit(flood) for _ in range(24)]
        try:
            while 503 not in codes:
                time.sleep(0.01)
            answers = [client.post("/v2/models/scores/infer", json=ASKED).status_code for _ in range(50)]
        finally:
            over.set()
        for flooder in flooding:
            flooder.result()
    assert set(answers) == {200}
    assert set(codes) <= {200, 503}


async def test_a_queue_waits_for_the_turns_of_the_others_in_the_loop(models: Models) -> None:
    """Room for a second is less where each turn of a model comes after one of another that takes as long."""
    turns, costs = Turns(), Costs((1,), (0.02,))

    def of_its_own(feeds: Any) -> Any:
        return feeds

    first, second = (Batcher(of_its_own, Limits(1), costs, in_loop=True, turns=turns) for _ in range(2))

    assert fill(first) == pytest.approx(50, abs=1)
    assert fill(second) == pytest.approx(25, abs=1)


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ([], "models"),
        ([{"name": "a", "folder": "../elsewhere"}], "is no folder of the package"),
        ([{"name": "a/b", "folder": "a"}], "models.0.name"),
        ([{"name": "a", "folder": "./SHA256SUMS"}], "is no folder of the package"),
        ([{"name": "a", "folder": "model.yaml/a"}], "is no folder of the package"),
        ([{"name": "a", "folder": "a\nb"}], "is no folder of the package"),
        ([{"name": "a", "folder": "a/b"}, {"name": "b", "folder": "a"}], "holds more than one model"),
        ([{"name": "a", "folder": "a"}, {"name": "b", "folder": "./a"}], "holds more than one model"),
        ([{"name": "a", "folder": "a"}, {"name": "a", "folder": "b", "version": 2}], "need versions that differ"),
        ([{"name": "a", "folder": "a", "version": 2}] * 2, "need versions that differ"),
    ],
)
def test_a_list_of_models_that_cannot_be_served_is_refused(
    tmp_path: Path, models: list[dict[str, Any]], said: str
) -> None:
    (tmp_path / "model.yaml").write_text(json.dumps({"name": "all", "format": "collection", "models": models}))
    with pytest.raises(InvalidPackage, match=said):
        read_manifest(tmp_path)
