"""Every gRPC endpoint, asked of a real server with the official client."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from trimtab_runtime.http2 import frames
from trimtab_runtime.http2.headers import literal
from trimtab_runtime.protocol import oip_pb2, oip_pb2_grpc
from trimtab_runtime.protocol.grpc_wire import Status

Stub: Any = oip_pb2_grpc.GRPCInferenceServiceStub
SERVICE = "inference.GRPCInferenceService"


@pytest.fixture(params=["lean", "grpcio"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def channel(models: Any, shared: Any, engine: str) -> Iterator[grpc.Channel]:
    """A connection to the same model by our own server, and by the common library."""
    with grpc.insecure_channel(shared(models.scores(), GRPC_ENGINE=engine).grpc) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    return Stub(channel)


def request(**changes: Any) -> Any:
    asked = oip_pb2.ModelInferRequest(**{"model_name": "scores"} | changes)
    if not asked.inputs:
        asked.inputs.add(name="x", datatype="FP32", shape=[1, 3]).contents.fp32_contents.extend([1, 2, 3])
    return asked


def test_a_running_server_is_live_and_ready(stub: Any) -> None:
    assert stub.ServerLive(oip_pb2.ServerLiveRequest()).live
    assert stub.ServerReady(oip_pb2.ServerReadyRequest()).ready
    assert stub.ModelReady(oip_pb2.ModelReadyRequest(name="scores", version="r1")).ready


def test_server_and_model_say_what_they_are(stub: Any) -> None:
    server = stub.ServerMetadata(oip_pb2.ServerMetadataRequest())
    model = stub.ModelMetadata(oip_pb2.ModelMetadataRequest(name="scores"))
    assert (server.name, server.version) == ("trimtab", "0.1.0")
    assert (model.name, list(model.versions), model.platform) == ("scores", ["r1"], "onnx_onnxv1")
    assert [(item.name, item.datatype, list(item.shape)) for item in model.inputs] == [("x", "FP32", [-1, 3])]
    assert [(item.name, item.datatype, list(item.shape)) for item in model.outputs] == [("y", "FP32", [-1, 2])]


def test_typed_contents_are_answered_typed(stub: Any) -> None:
    answer = stub.ModelInfer(request(id="a7", model_version="r1"))
    assert (answer.model_name, answer.model_version, answer.id) == ("scores", "r1", "a7")
    assert list(answer.outputs[0].shape) == [1, 2]
    assert list(answer.outputs[0].contents.fp32_contents) == [16.0, 22.0]
    assert not answer.raw_output_contents


def test_raw_contents_are_answered_raw(stub: Any) -> None:
    tensor = oip_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[2, 3])
    raw = np.array([[1, 2, 3], [0, 0, 1]], dtype="<f4").tobytes()
    answer = stub.ModelInfer(request(inputs=[tensor], raw_input_contents=[raw]))
    assert np.frombuffer(answer.raw_output_contents[0], "<f4").tolist() == [16.0, 22.0, 4.0, 5.0]
    assert not answer.outputs[0].contents.fp32_contents


def test_only_the_outputs_asked_for_come_back(models: Any, shared: Any) -> None:
    asked = oip_pb2.ModelInferRequest(model_name="sums", outputs=[{"name": "difference"}])
    for name, values in (("b", [3, 4]), ("a", [1, 2])):
        asked.inputs.add(name=name, datatype="INT64", shape=[1, 2]).contents.int64_contents.extend(values)
    with grpc.insecure_channel(shared(models.two_inputs()).grpc) as channel:
        answer = Stub(channel).ModelInfer(asked)
    assert [(item.name, list(item.contents.int64_contents)) for item in answer.outputs] == [("difference", [-2, -2])]


@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        ({"model_name": "other"}, "NOT_FOUND", "there is no model other"),
        ({"model_version": "r9"}, "NOT_FOUND", "this server has scores version r1"),
        ({"inputs": [{"name": "z"}]}, "INVALID_ARGUMENT", "inputs ['z'], expected ['x']"),
        ({"inputs": [{"name": "x", "datatype": "INT64"}]}, "INVALID_ARGUMENT", "datatype INT64, expected FP32"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [3]}]}, "INVALID_ARGUMENT", "expected [-1, 3]"),
        (
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3]}]},
            "INVALID_ARGUMENT",
            "0 elements do not fill",
        ),
        ({"raw_input_contents": [b"123"]}, "INVALID_ARGUMENT", "3 bytes do not fill shape [1, 3]; 12 would"),
        ({"raw_input_contents": [b"", b""]}, "INVALID_ARGUMENT", "2 entries for 1 inputs"),
        ({"outputs": [{"name": "z"}]}, "INVALID_ARGUMENT", "there is no output ['z']"),
    ],
)
def test_a_request_that_does_not_fit_is_told_what_was_expected(
    stub: Any, changes: dict[str, Any], code: str, told: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request(**changes))
    assert caught.value.code().name == code
    assert told in caught.value.details()


def test_a_model_that_is_not_there_has_no_metadata(stub: Any) -> None:
    with pytest.raises(grpc.RpcError, match="there is no model other"):
        stub.ModelMetadata(oip_pb2.ModelMetadataRequest(name="other"))


def test_health_answers_for_the_server_and_the_service(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", SERVICE):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_names_the_services(channel: grpc.Channel) -> None:
    services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert {SERVICE, "grpc.health.v1.Health"} <= set(services)


CALLS = {
    "zstd": (b"\x01\x00\x00\x00\x01\x00", "UNIMPLEMENTED"),
    "long": (b"\x00\xff\xff\xff\xff", "RESOURCE_EXHAUSTED"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_message_that_cannot_be_read_fails_its_own_call_and_is_counted(models: Any, serve: Any, name: str) -> None:
    server = serve(models.scores(), MAX_CONNECTION_AGE_SECONDS="3600")
    content, status = CALLS[name]
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", f"/{SERVICE}/ModelInfer".encode()),
        (b"content-type", b"application/grpc"),
        (b"grpc-encoding", b"zstd"),
    ]
    host, port = server.grpc.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        head = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, literal(fields))
        raw.sendall(frames.PREFACE + frames.settings({}) + head)
        raw.sendall(frames.frame(frames.DATA, frames.END_STREAM, 1, content))
        said = b""
        while b"grpc-status" not in said:
            part = raw.recv(1 << 16)
            assert part
            said += part
    assert f"grpc-status{chr(len(str(int(Status[status]))))}{int(Status[status])}".encode() in said
    metrics = httpx.get(f"{server.url}/metrics").text
    assert f'code="{status}"' in metrics
    assert "trimtab_inflight_requests 0.0" in metrics


def test_a_method_that_is_none_is_told_before_the_caller_has_ended(scores: Any) -> None:
    never = threading.Event()

    def asked() -> Iterator[bytes]:
        yield b""
        never.wait(30)

    with grpc.insecure_channel(scores.grpc) as channel:
        answers = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")(
            asked(), timeout=20
        )
        with pytest.raises(grpc.RpcError) as error:
            next(answers)
    never.set()
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]


def test_a_long_text_of_an_error_arrives_cut(stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as error:
        stub.ModelInfer(request(model_name="ä" * 200_000))
    assert error.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]


def test_watchers_are_told_of_the_end_and_do_not_hold_it_up(models: Any, serve: Any) -> None:
    server = serve(models.scores(), DRAIN_SECONDS="0.2", MAX_CONNECTION_AGE_SECONDS="3600")
    with grpc.insecure_channel(server.grpc) as channel:
        updates = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(updates).status == health_pb2.HealthCheckResponse.SERVING
        server.terminate()
        assert next(updates).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError):
            next(updates)
        began = time.monotonic()
        assert server.exit_code() == 0
        assert time.monotonic() - began < 10


def test_an_answer_is_whole_though_its_connection_is_old(models: Any, serve: Any) -> None:
    server = serve(models.echo("FP32"), MAX_CONNECTION_AGE_SECONDS="0.3")
    values = np.arange(1 << 20, dtype=np.float32)
    asked = oip_pb2.ModelInferRequest(model_name="echo-fp32", raw_input_contents=[values.tobytes()])
    asked.inputs.add(name="x", datatype="FP32", shape=[1, 1 << 20])
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(server.grpc, options=options) as channel:
        for _ in range(40):
            answer = Stub(channel).ModelInfer(asked)
            assert answer.raw_output_contents[0] == values.tobytes()
