"""Every gRPC endpoint, asked of a real server with the official client."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from trimtab_runtime.protocol import oip_pb2, oip_pb2_grpc

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
