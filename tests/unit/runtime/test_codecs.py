"""Tensors survive every form of the protocol, and nothing is taken that would change on the way."""

import json
import math
import re
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trimtab_api.package import Tensor
from trimtab_runtime.protocol import grpc, oip_pb2, rest, strings
from trimtab_runtime.protocol.errors import BadRequest
from trimtab_runtime.protocol.inputs import Inputs
from trimtab_runtime.protocol.packed import read_packed
from trimtab_runtime.protocol.request import InferRequest
from trimtab_runtime.protocol.tensors import NUMPY_TYPES, Array, datatype_of, from_list, to_bytes

NUMBERS = sorted(str(name) for name in NUMPY_TYPES if name != "BYTES")


@st.composite
def arrays(draw: st.DrawFn, datatypes: list[str], finite: bool = True) -> Array:
    kind = NUMPY_TYPES[draw(st.sampled_from(datatypes))]
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4))
    if kind.kind == "O":
        size = math.prod(shape)
        texts = draw(st.lists(st.text(max_size=6), min_size=size, max_size=size))
        return strings.from_list(texts).reshape(shape)
    elements: dict[str, Any] = {"allow_nan": False, "allow_infinity": False} if finite and kind.kind == "f" else {}
    array: Array = draw(hnp.arrays(kind, shape, elements=hnp.from_dtype(kind, **elements)))
    return array


def declared(array: Array) -> Tensor:
    return Tensor(name="x", datatype=datatype_of(array), shape=(-1, *array.shape[1:]))


def written(outputs: dict[str, Array], request: InferRequest) -> tuple[bytes, int | None]:
    tensors = [Tensor(name=name, datatype=datatype_of(a), shape=(-1, *a.shape[1:])) for name, a in outputs.items()]
    return rest.Writer("m", "1", tensors).write(outputs, request)


def same(left: Array, right: Array) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and to_bytes(left) == to_bytes(right)


def described(array: Array, **more: Any) -> dict[str, Any]:
    return {"name": "x", "shape": list(array.shape), "datatype": datatype_of(array), **more}


@given(arrays(NUMBERS, finite=False), st.booleans(), st.integers(0, 3))
def test_large_bodies_are_read_as_small_ones_are(array: Array, nested: bool, indent: int) -> None:
    """Also where they cannot be read, or hold what is no number of the kind."""
    data: Any = array.tolist() if nested else array.ravel().tolist()
    content = {"id": "a", "inputs": [described(array, data=data, parameters={"b": {}})], "parameters": {"c": 1.5}}
    body = json.dumps(content, indent=indent).encode()  # NaN too, which is no JSON

    packed, numbers = read_packed(body), None

    if packed is not None:
        numbers = packed["inputs"][0]["data"]
        packed["inputs"][0]["data"] = numbers.tolist() if isinstance(numbers, np.ndarray) else numbers
        assert packed == orjson.loads(body)
    if array.dtype.kind in "iu" and not nested:
        assert isinstance(numbers, np.ndarray)


@pytest.mark.parametrize(
    "text",
    [
        '{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "INT64", "data": [1, 2.5]}]}',
        '{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "INT64", "data": [1, {}]}]}',
        '{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "INT64", "data": [1, null]}]}',
        '{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "INT64", "data": [1, "2"]}]}',
        '{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "INT64", "data": [1, [2, 3]]}]}',
        '{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "INT64", "data": [1, [2]]}]}',
        '{"inputs": [{"name": "x", "shape": [1, 3], "datatype": "INT64", "data": [1, [], [2, 3]]}]}',
        '{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "INT64", "data": [1, 9223372036854775808]}]}',
        '{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "INT64", "data": [1, 2]}]} 1',
        '{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "INT64", "data": [1, 2]}',
        '{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "INT64", "data": []}]}',
        '{"inputs": [{"name": "x", "shape": [1, 2], "datatype": [], "data": [1, 2]}]}',
        '{"inputs": [{"name": "x", "shape": 1, "datatype": "INT64", "data": [1, 2]}]}',
        '{"inputs": [1]}',
        '{"inputs": {"x": 1}}',
        '{"inputs": null}',
        "[1]",
        '{"inputs": [' + "[" * 2000,
        '{"id": "\\ud800", "inputs": []}',
    ],
)
def test_what_is_wrong_with_a_large_body_is_told_as_of_a_small_one(text: str) -> None:
    inputs = Inputs([Tensor(name="x", datatype="INT64", shape=(-1, 2))])
    with pytest.raises(BadRequest) as small:
        rest.read_request(text.encode(), None, inputs)
    with pytest.raises(BadRequest) as large:
        rest.read_request(text.encode() + b" " * 5000, None, inputs)
    assert re.sub(r"column.*", "", str(large.value)) == re.sub(r"column.*", "", str(small.value))


def test_keys_with_an_end_of_text_in_them_are_keys_like_any() -> None:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "INT64", "data": [1, 2]}
    body = json.dumps({"id\0b": "wrong", "id": "a", "inputs": [tensor]}).encode() + b" " * 5000
    found = rest.read_request(body, None, Inputs([Tensor(name="x", datatype="INT64", shape=(-1, 2))]))
    assert (found.id, found.feeds["x"].tolist()) == ("a", [[1, 2]])


def test_lists_of_more_elements_than_simdjson_counts_are_read_all_the_same() -> None:
    inputs = Inputs([Tensor(name="x", datatype="INT8", shape=(-1, 1))])
    body = b'{"inputs": [{"name": "x", "shape": [1, 1], "datatype": "INT8", "data": [1]}], "more": [%b1]}'
    found = rest.read_request(body % (b"1," * (1 << 24)), None, inputs)
    assert found.feeds["x"].tolist() == [[1]]


def test_a_large_body_after_one_that_was_refused_is_read() -> None:
    inputs = Inputs([Tensor(name="x", shape=(-1, 1000))])
    row = {"name": "x", "shape": [1, 1000], "datatype": "FP32", "data": [0.5] * 1000}
    kept = []
    for datatype in ("FP32", "INT64", "FP32"):
        try:
            body = json.dumps({"inputs": [{**row, "datatype": datatype}]}).encode()
            kept.append(rest.read_request(body, None, inputs).feeds["x"].sum())
        except BadRequest as error:
            kept.append(error)  # and with it all that its frames know
    assert (kept[0], type(kept[1]), kept[2]) == (500.0, BadRequest, 500.0)


@settings(suppress_health_check=[HealthCheck.too_slow])  # the first text of a new checkout takes a second
@given(arrays([*NUMBERS, "BYTES"]), st.booleans())
def test_what_is_sent_as_json_arrives(array: Array, nested: bool) -> None:
    data = array.tolist() if nested else array.ravel().tolist()
    body = json.dumps({"inputs": [described(array, data=data)]}).encode()
    assert same(rest.read_request(body, None, Inputs([declared(array)])).feeds["x"], array)


@given(arrays([*NUMBERS, "BYTES"], finite=False), st.text(max_size=7))
def test_what_is_sent_as_raw_bytes_arrives_wherever_it_starts(array: Array, request_id: str) -> None:
    raw = to_bytes(array)
    content = {"id": request_id, "inputs": [described(array, parameters={"binary_data_size": len(raw)})]}
    head = json.dumps(content).encode()
    found = rest.read_request(head + raw, len(head), Inputs([declared(array)]))
    assert same(found.feeds["x"], array)
    assert found.feeds["x"].flags.aligned
    assert found.id == request_id


@settings(suppress_health_check=[HealthCheck.too_slow])  # the first text of a new checkout takes a second
@given(arrays([*NUMBERS, "BYTES"]))
def test_answers_in_json_carry_every_number(array: Array) -> None:
    content, length = written({"y": array}, InferRequest({}))
    item = orjson.loads(content)["outputs"][0]
    assert length is None
    assert (item["shape"], item["datatype"]) == (list(array.shape), datatype_of(array))
    assert same(from_list(declared(array), item["data"]).reshape(array.shape), array)


@given(st.lists(arrays([*NUMBERS, "BYTES"], finite=False), min_size=1, max_size=3))
def test_raw_answers_lie_one_after_the_other(many: list[Array]) -> None:
    content, length = written({str(i): a for i, a in enumerate(many)}, InferRequest({}, binary=True))
    assert length is not None
    sizes = [item["parameters"]["binary_data_size"] for item in orjson.loads(content[:length])["outputs"]]
    assert sizes == [len(to_bytes(array)) for array in many]
    assert content[length:] == b"".join(to_bytes(array) for array in many)


@given(arrays([name for name in NUMBERS if name != "FP16"] + ["BYTES"], finite=False), st.booleans())
def test_grpc_carries_tensors_typed_and_raw_there_and_back(array: Array, raw: bool) -> None:
    sent = grpc.write_response("m", "1", {"x": array}, InferRequest({}, id="i", binary=raw))
    request = oip_pb2.ModelInferRequest(raw_input_contents=sent.raw_output_contents, id=sent.id)
    for output in sent.outputs:
        request.inputs.add(name="x", datatype=output.datatype, shape=output.shape, contents=output.contents)
    found = grpc.read_request(request, Inputs([declared(array)]))
    assert (bool(sent.raw_output_contents), found.binary, found.id) == (raw, raw, "i")
    assert np.array_equal(found.feeds["x"], array, equal_nan=array.dtype.kind == "f")


def test_half_precision_goes_raw_over_grpc_as_it_has_no_typed_form() -> None:
    array = np.array([[1.5]], dtype=np.float16)
    assert grpc.write_response("m", "1", {"y": array}, InferRequest({})).raw_output_contents == [array.tobytes()]
    request = oip_pb2.ModelInferRequest()
    request.inputs.add(name="x", datatype="FP16", shape=[1, 1])
    with pytest.raises(BadRequest, match="raw_input_contents"):
        grpc.read_request(request, Inputs([declared(array)]))


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("INT64", [1.5]),
        ("INT64", [1.0]),
        ("INT8", [128]),
        ("INT8", [-129]),
        ("UINT8", [-1]),
        ("UINT64", [1 << 64]),
        ("UINT64", [1 << 63, -1]),
        ("INT64", [1 << 63]),
        ("INT32", [True]),
        ("BOOL", [0, 1]),
        ("FP32", [None]),
        ("FP64", ["1"]),
        ("FP16", [70000]),
        ("FP32", [{}]),
        ("FP32", [[1], [2, 3]]),
        ("BYTES", [1]),
        ("BYTES", [None]),
        ("BYTES", [b"\xff"]),
    ],
)
def test_data_that_would_change_is_refused(datatype: str, data: list[Any]) -> None:
    with pytest.raises(BadRequest, match=f"input x: the data is not {datatype}"):
        from_list(Tensor(name="x", datatype=datatype, shape=(-1,)), data)


@pytest.mark.parametrize("raw", [b"\x01", b"\x05\x00\x00\x00abc", b"\x01\x00\x00\x00a\xff\xff\xff\xff"])
def test_elements_that_lead_past_the_end_are_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="leads past the end"):
        strings.unpack(raw)


_TRAPS = st.sampled_from(
    ['"parameters":{"timeout":7}}', '{"parameters":{"timeout":7},', "parameters", 'x\\"parameters', "timeout", "a"]
)
_TIMEOUTS = st.one_of(st.none(), st.integers(0, 10**7))


@given(
    keys=st.permutations(["id", "inputs", "parameters", "outputs", "more"]),
    inner=_TIMEOUTS,
    outer=_TIMEOUTS,
    text=_TRAPS,
    indent=st.sampled_from([None, 1]),
    is_raw=st.booleans(),
)
def test_the_time_that_is_seen_before_a_body_is_read_is_what_reading_it_gives(
    keys: list[str], inner: int | None, outer: int | None, text: str, indent: int | None, is_raw: bool
) -> None:
    def parameters(timeout: int | None) -> dict[str, Any]:
        return {"parameters": {} if timeout is None else {"timeout": timeout}}

    raw = strings.pack(strings.from_list([text]))
    sent = {"parameters": {"binary_data_size": len(raw)}} if is_raw else {"data": [text], **parameters(inner)}
    content: dict[str, Any] = {
        "id": text,
        "inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], **sent}],
        "outputs": [{"name": "y", **parameters(inner)}],
        "more": {text: parameters(inner)},
        **parameters(outer),
    }
    head = json.dumps({key: content[key] for key in keys}, indent=indent).encode()
    body, length = (head + raw, len(head)) if is_raw else (head, None)

    seen = rest.announced_timeout(body, length)

    read = rest.read_request(body, length, Inputs([Tensor(name="x", datatype="BYTES", shape=(-1,))])).timeout
    assert seen in (None, read)
    if keys[-1] == "parameters" or keys[0] == "parameters":
        assert seen == read


@given(st.binary(max_size=200), st.integers(0, 200))
def test_any_bytes_are_read_or_refused(body: bytes, header: int) -> None:
    tensor = Tensor(name="x", shape=(-1, 2))
    length = header if header <= len(body) else None
    try:
        found = rest.read_request(body, length, Inputs([tensor]))
    except BadRequest:
        return
    assert found.feeds["x"].shape[1] == 2
