"""The REST bodies of the protocol: JSON, and JSON followed by raw tensors (the binary tensor extension).

Source: open-inference-protocol, inference_rest.md; Triton, extension_binary_data.md.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import orjson

from trimtab_api.package import Tensor
from trimtab_runtime.protocol.errors import BadRequest
from trimtab_runtime.protocol.request import InferRequest
from trimtab_runtime.protocol.tensors import (
    NUMPY_TYPES,
    Array,
    by_name,
    datatype_of,
    from_bytes,
    from_numbers,
    to_bytes,
)


def read_request(body: bytes, header_length: int | None, inputs: Sequence[Tensor]) -> InferRequest:
    """Read an infer request; `header_length` is that of the JSON part where raw tensors follow. Raises BadRequest.

    A JSON part of no bytes means that the whole body is the single input, and that all outputs go back raw.
    """
    if header_length == 0:
        return InferRequest({inputs[0].name: _whole(body, inputs)}, binary=True)
    content = _json(body if header_length is None else body[:header_length])
    tensors = content.get("inputs")
    if not isinstance(tensors, list) or not all(isinstance(item, dict) for item in tensors):
        raise BadRequest('the body needs "inputs": a list of {name, shape, datatype, data}')
    declared = by_name(inputs, [str(item.get("name")) for item in tensors])
    raw = memoryview(body)[header_length or len(body) :]
    feeds: dict[str, Array] = {}
    for item in tensors:
        name = str(item["name"])
        feeds[name], raw = _read_tensor(declared[name], item, raw)
    if len(raw):
        raise BadRequest(f"{len(raw)} bytes are left after the last tensor")
    binary = bool(_parameters(content).get("binary_data_output"))
    return InferRequest(feeds, content.get("id"), _wanted(content.get("outputs"), binary), binary)


def write_response(
    name: str, version: str, outputs: Mapping[str, Array], request: InferRequest
) -> tuple[bytes, int | None]:
    """Return the body and, where raw tensors follow, the length of its JSON part."""
    described, tail = [], []
    for key, array in outputs.items():
        item: dict[str, Any] = {"name": key, "datatype": datatype_of(array), "shape": list(array.shape)}
        if request.is_binary(key):
            tail.append(to_bytes(array))
            item["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            item["data"] = plain(array.ravel())
        described.append(item)
    content: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": described}
    if request.id is not None:
        content["id"] = request.id
    head = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return (head + b"".join(tail), len(head)) if tail else (head, None)


def plain(array: Array) -> Any:
    """Return what orjson can write: arrays of numbers as they are, half precision widened, text as a list."""
    if array.dtype.kind in "OUS":
        return [item.decode() if isinstance(item, bytes) else item for item in array.ravel().tolist()]
    return np.ascontiguousarray(array, dtype=np.float32 if array.dtype == np.float16 else None)


def _whole(body: bytes, inputs: Sequence[Tensor]) -> Array:
    tensor = inputs[0]
    row = prod(tensor.shape[1:]) * NUMPY_TYPES[tensor.datatype].itemsize
    if len(inputs) != 1 or -1 in tensor.shape[1:] or tensor.datatype == "BYTES" or row == 0:
        raise BadRequest("a body of raw bytes alone needs a model with one input of numbers whose rows have one shape")
    return from_bytes(tensor, tensor.datatype, [max(1, len(body) // row), *tensor.shape[1:]], body)


def _read_tensor(declared: Tensor, item: Mapping[str, Any], raw: memoryview) -> tuple[Array, memoryview]:
    shape, datatype = item.get("shape"), str(item.get("datatype"))
    if not isinstance(shape, list):
        raise BadRequest(f'input {declared.name} needs "shape": a list, such as {list(declared.shape)}')
    size = _parameters(item).get("binary_data_size")
    if size is None:
        if "data" not in item:
            raise BadRequest(
                f'input {declared.name} needs "data", or binary_data_size and its bytes after the JSON part'
            )
        return from_numbers(declared, datatype, shape, item["data"]), raw
    if not isinstance(size, int) or not 0 <= size <= len(raw):
        raise BadRequest(f"input {declared.name}: binary_data_size is {size}, but {len(raw)} bytes are left")
    return from_bytes(declared, datatype, shape, raw[:size]), raw[size:]


def _wanted(outputs: Any, binary: bool) -> Mapping[str, bool] | None:
    if not outputs:
        return None
    if not isinstance(outputs, list) or not all(isinstance(item, dict) and "name" in item for item in outputs):
        raise BadRequest('"outputs" has to be a list of {name}')
    return {str(item["name"]): bool(_parameters(item).get("binary_data", binary)) for item in outputs}


def _parameters(item: Mapping[str, Any]) -> Mapping[str, Any]:
    found = item.get("parameters")
    return found if isinstance(found, dict) else {}


def _json(body: bytes) -> dict[str, Any]:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise BadRequest("the body has to be a JSON object")
    return content
