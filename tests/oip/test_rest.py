"""The protocol over REST, asked of a server that is known by its address alone."""

import json
from typing import Any

import httpx
import pytest

from asking import LENGTH, arrays_of, asked, infer, infer_raw
from served import NUMPY, Served, raw, same


def names(answer: dict[str, Any]) -> list[str]:
    return [output["name"] for output in answer["outputs"]]


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready"])
def test_the_server_is_live_and_ready(http: httpx.Client, path: str) -> None:
    assert http.get(path).status_code == 200


def test_the_server_says_its_name_its_version_and_its_extensions(http: httpx.Client) -> None:
    found = http.get("/v2").json()
    assert all(isinstance(found[key], str) for key in ("name", "version"))
    assert isinstance(found["extensions"], list)


def test_the_model_is_ready(http: httpx.Client, served: Served) -> None:
    assert http.get(f"{served.path}/ready").status_code == 200


def test_the_model_says_what_it_takes_and_gives(served: Served) -> None:
    found = served.metadata
    assert found["name"] == served.model
    assert isinstance(found["platform"], str)
    for tensor in (*found["inputs"], *found["outputs"]):
        assert set(tensor) >= {"name", "datatype", "shape"}
        assert tensor["datatype"] in NUMPY
        assert all(type(axis) is int and axis >= -1 for axis in tensor["shape"])


def test_every_version_that_is_named_is_there(http: httpx.Client, served: Served) -> None:
    for version in served.metadata.get("versions") or []:
        path = f"{served.path}/versions/{version}"
        assert http.get(path).json()["name"] == served.model
        assert http.get(f"{path}/ready").status_code == 200
        if not served.needs_binary_tensors:
            answer = asked(http, f"{path}/infer", {"inputs": served.listed(served.rows(1))})
            assert answer["model_version"] == version


def test_every_output_is_answered_in_the_shape_that_it_says(http: httpx.Client, served: Served) -> None:
    answer = infer(http, served, served.rows(2))
    declared = {item["name"]: item for item in served.metadata["outputs"]}
    assert answer["model_name"] == served.model
    assert sorted(names(answer)) == sorted(declared)
    for name, array in arrays_of(answer).items():
        shape = declared[name]["shape"]
        assert array.shape[0] == 2
        assert len(array.shape) == len(shape)
        assert all(wanted in (-1, axis) for wanted, axis in zip(shape[1:], array.shape[1:], strict=True))


def test_an_id_comes_back_and_none_is_made_up_as_another(http: httpx.Client, served: Served) -> None:
    assert infer(http, served, served.rows(1), id="a 7")["id"] == "a 7"


def test_nested_data_means_what_flat_data_means(http: httpx.Client, served: Served) -> None:
    if served.needs_binary_tensors:
        pytest.skip("FP16 has no form in JSON")
    rows = served.rows(3)
    flat = infer(http, served, rows)
    nested = asked(http, f"{served.path}/infer", {"inputs": served.listed(rows, nested=True)})
    assert nested["outputs"] == flat["outputs"]


def test_inputs_may_come_in_any_order(http: httpx.Client, served: Served) -> None:
    rows = served.rows(1)
    turned = dict(reversed(rows.items()))
    assert infer(http, served, turned)["outputs"] == infer(http, served, rows)["outputs"]


def test_rows_are_answered_together_as_they_are_alone(http: httpx.Client, served: Served) -> None:
    rows = served.rows(4)
    together = arrays_of(infer(http, served, rows))
    for at in range(4):
        alone = arrays_of(infer(http, served, {name: array[at : at + 1] for name, array in rows.items()}))
        assert all(same(together[name][at : at + 1], alone[name]) for name in alone)


def test_only_outputs_that_are_asked_for_come_back(http: httpx.Client, served: Served) -> None:
    for output in served.metadata["outputs"]:
        wanted = [{"name": output["name"]}]
        assert names(infer(http, served, served.rows(1), outputs=wanted)) == [output["name"]]


def test_raw_tensors_give_what_json_gives_in_all_four_ways(http: httpx.Client, served: Served) -> None:
    if not served.has_binary_tensors:
        pytest.skip("the server does not say that it has binary tensors")
    rows = served.rows(2)
    expected = arrays_of(infer(http, served, rows))
    for binary in (True, False):
        found = arrays_of(*infer_raw(http, served, rows, binary_data_output=binary))
        assert all(same(found[name], expected[name]) for name in expected)
        if not served.needs_binary_tensors:
            parameters = {"binary_data_output": binary}
            answer = http.post(f"{served.path}/infer", json={"inputs": served.listed(rows), "parameters": parameters})
            end = int(answer.headers.get(LENGTH, len(answer.content)))
            found = arrays_of(json.loads(answer.content[:end]), answer.content[end:])
            assert all(same(found[name], expected[name]) for name in expected)


def test_an_output_may_differ_from_the_rest_in_its_form(http: httpx.Client, served: Served) -> None:
    if not served.has_binary_tensors:
        pytest.skip("the server does not say that it has binary tensors")
    outputs = [
        {"name": item["name"], "parameters": {"binary_data": at % 2 == 0}}
        for at, item in enumerate(served.metadata["outputs"])
    ]
    answer, tail = infer_raw(http, served, served.rows(1), binary_data_output=False, outputs=outputs)
    assert ["data" not in output for output in answer["outputs"]] == [at % 2 == 0 for at in range(len(outputs))]
    arrays_of(answer, tail)


def test_a_body_of_raw_bytes_alone_is_the_only_input(http: httpx.Client, served: Served) -> None:
    inputs = served.metadata["inputs"]
    if not served.has_binary_tensors or len(inputs) > 1 or -1 in inputs[0]["shape"][1:]:
        pytest.skip("it takes binary tensors, and one input of one shape")
    rows = served.rows(1)
    (array,) = rows.values()
    answer = http.post(f"{served.path}/infer", content=raw(array), headers={LENGTH: "0"})
    assert answer.status_code == 200, answer.text
    end = int(answer.headers[LENGTH])
    found = arrays_of(json.loads(answer.content[:end]), answer.content[end:])
    expected = arrays_of(infer(http, served, rows))
    assert all(same(found[name], expected[name]) for name in expected)


def wrong(served: Served) -> dict[str, Any]:
    """Return bodies with one thing wrong each."""
    tensors = served.listed(served.rows(1))
    first, *others = tensors
    shape = first["shape"]
    return {
        "no JSON": "{",
        "no object": [1],
        "no inputs": {},
        "inputs that are no list": {"inputs": {"x": 1}},
        "an input too few": {"inputs": others},
        "a name that is none": {"inputs": [{**first, "name": "nobody"}, *others]},
        "no shape": {"inputs": [{key: first[key] for key in first if key != "shape"}, *others]},
        "no datatype": {"inputs": [{key: first[key] for key in first if key != "datatype"}, *others]},
        "no data": {"inputs": [{key: first[key] for key in first if key != "data"}, *others]},
        "a datatype that is none": {"inputs": [{**first, "datatype": "FP7"}, *others]},
        "an axis too many": {"inputs": [{**first, "shape": [*shape, 1]}, *others]},
        "a negative axis": {"inputs": [{**first, "shape": [-1, *shape[1:]]}, *others]},
        "too little data": {"inputs": [{**first, "data": first["data"][:-1]}, *others]},
        "an output that is none": {"inputs": tensors, "outputs": [{"name": "nobody"}]},
    }


def test_what_is_wrong_is_the_callers_error_with_a_text(http: httpx.Client, served: Served) -> None:
    for what, body in wrong(served).items():
        content = body if isinstance(body, str) else json.dumps(body)
        answer = http.post(f"{served.path}/infer", content=content, headers={"Content-Type": "application/json"})
        assert 400 <= answer.status_code < 500, (what, answer.status_code, answer.text)
        assert isinstance(answer.json()["error"], str), what


@pytest.mark.parametrize("path", ["/v2/models/nobody", "/v2/models/nobody/ready", "/v2/models/nobody/versions/7"])
def test_a_model_that_is_none_is_the_callers_error(http: httpx.Client, path: str) -> None:
    assert 400 <= http.get(path).status_code < 500


def test_after_all_that_the_server_answers_as_before(http: httpx.Client, served: Served) -> None:
    rows = served.rows(1)
    before = infer(http, served, rows)["outputs"]
    for body in wrong(served).values():
        http.post(f"{served.path}/infer", content=body if isinstance(body, str) else json.dumps(body))
    assert infer(http, served, rows)["outputs"] == before
