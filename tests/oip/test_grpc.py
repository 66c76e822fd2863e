"""The protocol over gRPC, asked of a server that is known by its address alone."""

from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from asking import arrays_of
from asking import infer as infer_rest
from served import Arrays, Served, from_raw, raw, same
from trimtab_runtime.protocol import oip_pb2, oip_pb2_grpc

CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    make: Any = oip_pb2_grpc.GRPCInferenceServiceStub
    return make(channel)


def request(served: Served, rows: Arrays, is_raw: bool, **more: Any) -> Any:
    asked = oip_pb2.ModelInferRequest(**{"model_name": served.model} | more)
    for tensor, array in zip(served.tensors(rows), rows.values(), strict=True):
        item = asked.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
        if is_raw:
            asked.raw_input_contents.append(raw(array))
        else:
            values = [text.encode() if isinstance(text, str) else text for text in array.ravel().tolist()]
            getattr(item.contents, CONTENTS[tensor["datatype"]]).extend(values)
    return asked


def outputs(answer: Any) -> Arrays:
    found = {}
    for at, item in enumerate(answer.outputs):
        if answer.raw_output_contents:
            found[item.name] = from_raw(answer.raw_output_contents[at], item.datatype, list(item.shape))
        else:
            values = list(getattr(item.contents, CONTENTS[item.datatype]))
            kind = object if item.datatype == "BYTES" else None
            found[item.name] = np.array(values, kind).reshape(list(item.shape))
    return found


def test_the_server_is_live_and_ready_and_says_what_it_is(stub: Any) -> None:
    assert stub.ServerLive(oip_pb2.ServerLiveRequest()).live
    assert stub.ServerReady(oip_pb2.ServerReadyRequest()).ready
    assert stub.ServerMetadata(oip_pb2.ServerMetadataRequest()).name


def test_the_model_is_ready_and_says_what_rest_says(stub: Any, served: Served) -> None:
    assert stub.ModelReady(oip_pb2.ModelReadyRequest(name=served.model)).ready
    found = stub.ModelMetadata(oip_pb2.ModelMetadataRequest(name=served.model))
    for kind in ("inputs", "outputs"):
        described = [
            {"name": item.name, "datatype": item.datatype, "shape": list(item.shape)} for item in getattr(found, kind)
        ]
        assert described == [
            {key: item[key] for key in ("name", "datatype", "shape")} for item in served.metadata[kind]
        ]


@pytest.mark.parametrize("is_raw", [True, False])
def test_an_answer_is_that_of_rest(http: httpx.Client, stub: Any, served: Served, is_raw: bool) -> None:
    if served.needs_binary_tensors and not is_raw:
        pytest.skip("FP16 has no typed form")
    rows = served.rows(3)
    found = outputs(stub.ModelInfer(request(served, rows, is_raw, id="a 7")))
    expected = arrays_of(infer_rest(http, served, rows))
    assert sorted(found) == sorted(expected)
    assert all(same(found[name], expected[name]) for name in expected)


def test_an_answer_carries_the_id_and_the_model(stub: Any, served: Served) -> None:
    answer = stub.ModelInfer(request(served, served.rows(1), True, id="a 7"))
    assert (answer.id, answer.model_name) == ("a 7", served.model)


def test_only_outputs_that_are_asked_for_come_back(stub: Any, served: Served) -> None:
    for output in served.metadata["outputs"]:
        asked = request(served, served.rows(1), True)
        asked.outputs.add(name=output["name"])
        assert [item.name for item in stub.ModelInfer(asked).outputs] == [output["name"]]


def test_what_is_wrong_is_the_callers_error(stub: Any, served: Served) -> None:
    rows = served.rows(1)
    unknown = request(served, rows, True)
    unknown.inputs[0].name = "nobody"
    short = request(served, rows, True)
    short.raw_input_contents[0] = short.raw_input_contents[0][:-1]
    typed = request(served, rows, True)
    typed.inputs[0].datatype = "FP7"
    shaped = request(served, rows, True)
    shaped.inputs[0].shape.append(7)
    for asked in (unknown, short, typed, shaped, oip_pb2.ModelInferRequest(model_name=served.model)):
        with pytest.raises(grpc.RpcError) as error:
            stub.ModelInfer(asked)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT, asked  # type: ignore[attr-defined]


def test_a_model_that_is_none_is_not_found(stub: Any, served: Served) -> None:
    for ask in (
        lambda: stub.ModelMetadata(oip_pb2.ModelMetadataRequest(name="nobody")),
        lambda: stub.ModelInfer(request(served, served.rows(1), True, model_name="nobody")),
    ):
        with pytest.raises(grpc.RpcError) as error:
            ask()
        assert error.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]


def test_health_is_asked_in_grpcs_own_way_too(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    assert stub.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
