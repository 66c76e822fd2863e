"""What is told of single calls: headers, lines of the log, spans."""

import queue
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from trimtab_runtime.protocol import oip_pb2, oip_pb2_grpc

Stub: Any = oip_pb2_grpc.GRPCInferenceServiceStub
INFER = {"inputs": [{"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]}]}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
NOT_SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-00"}


def ask_grpc(server: Any, **metadata: str) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        asked = oip_pb2.ModelInferRequest(model_name="scores")
        asked.inputs.add(name="x", datatype="FP32", shape=[1, 3]).contents.fp32_contents.extend([1, 2, 3])
        Stub(channel).ModelInfer(asked, metadata=tuple(metadata.items()))


@pytest.mark.parametrize("fast", ["1", "0"])
def test_answers_say_where_the_time_went_if_the_server_is_told_to(models: Any, serve: Any, fast: str) -> None:
    server = serve(models.scores(), SERVER_TIMING="1", FAST_PATH=fast)
    with httpx.Client(base_url=server.url) as client:
        for path, body in (("/v2/models/scores/infer", INFER), ("/predict", [[1, 2, 3]]), ("/predict", "no rows")):
            for _ in range(2):  # the second time the head of the call is known
                said = client.post(path, json=body).headers["server-timing"]
                found = re.fullmatch(r"queue;dur=([\d.]+), run;dur=([\d.]+), total;dur=([\d.]+)", said)
                assert found
                queued, ran, total = map(float, found.groups())
                assert queued + ran <= total
                assert (ran > 0) == (body != "no rows")


def test_nothing_is_said_of_calls_unless_somebody_wants_to_know(scores: Any) -> None:
    assert "server-timing" not in httpx.post(f"{scores.url}/v2/models/scores/infer", json=INFER).headers


@pytest.mark.parametrize("engine", ["lean", "grpcio"])
def test_the_log_has_a_line_for_each_call_if_the_server_is_told_to(models: Any, serve: Any, engine: str) -> None:
    server = serve(models.scores(), ACCESS_LOG="1", GRPC_ENGINE=engine)
    httpx.post(f"{server.url}/v2/models/scores/infer", json=INFER, headers=SAMPLED)
    httpx.post(f"{server.url}/v2/models/scores/infer", json={})
    ask_grpc(server, **SAMPLED)
    lines = [server.wait_for("request") for _ in range(3)]
    told = [(line["protocol"], line["code"], line["rows"], line.get("traceparent")) for line in lines]
    parent = SAMPLED["traceparent"]
    assert told == [("rest", "200", 2, parent), ("rest", "400", 0, None), ("grpc", "OK", 1, parent)]
    assert all(0 <= line["queueSeconds"] + line["runSeconds"] <= line["seconds"] + 1e-6 for line in lines)


class Collector:
    """An OTLP endpoint on loopback that keeps the spans it is sent."""

    def __init__(self) -> None:
        self.resources: list[dict[str, str]] = []
        self._spans: queue.Queue[Any] = queue.Queue()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
                collector.take(sent)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, sent: ExportTraceServiceRequest) -> None:
        for part in sent.resource_spans:
            self.resources.append({item.key: item.value.string_value for item in part.resource.attributes})
            for scope in part.scope_spans:
                for span in scope.spans:
                    self._spans.put(span)

    def spans(self) -> list[Any]:
        found = []
        while not self._spans.empty():
            found.append(self._spans.get())
        return found


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    found = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_spans_of_sampled_calls_belong_to_their_callers_trace(models: Any, serve: Any, collector: Collector) -> None:
    server = serve(models.scores(), SPANS="1", REVISION="r7")
    for headers in (SAMPLED, SAMPLED, NOT_SAMPLED):
        httpx.post(f"{server.url}/v2/models/scores/infer", json=INFER, headers=headers)
    httpx.post(f"{server.url}/predict", json=[[1]], headers=SAMPLED)
    ask_grpc(server, **SAMPLED)
    server.terminate()
    assert server.exit_code() == 0

    spans = collector.spans()
    calls = [span for span in spans if span.name == "infer"]
    parts = [span for span in spans if span.name != "infer"]
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    assert [span.parent_span_id.hex() for span in calls] == [PARENT] * 4
    codes = [attribute.value.string_value for span in calls for attribute in span.attributes if "code" in attribute.key]
    assert codes == ["200", "200", "400", "OK"]
    by_id = {span.span_id: span for span in calls}
    assert sorted(part.name for part in parts) == ["queue"] * 4 + ["run"] * 4
    for part in parts:
        call = by_id[part.parent_span_id]
        assert call.start_time_unix_nano <= part.start_time_unix_nano
        assert part.end_time_unix_nano <= call.end_time_unix_nano + 1000
    assert collector.resources[0]["service.name"] == "scores"
    assert collector.resources[0]["service.version"] == "r7"


def test_calls_without_a_trace_of_their_own_are_sampled_as_the_environment_says(
    models: Any, serve: Any, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    server = serve(models.scores(), SPANS="1")
    for _ in range(100):
        httpx.post(f"{server.url}/v2/models/scores/infer", json=INFER)
    server.terminate()
    assert server.exit_code() == 0
    assert 20 <= len([span for span in collector.spans() if span.name == "infer"]) <= 80
    assert collector.resources[0]["service.name"] == "mine"


def test_a_collector_that_is_not_there_disturbs_nobody(
    models: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    server = serve(models.scores(), SPANS="1")
    for _ in range(10):
        assert httpx.post(f"{server.url}/v2/models/scores/infer", json=INFER).status_code == 200
    server.terminate()
    assert server.exit_code() == 0
