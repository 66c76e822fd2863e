"""The REST bodies of the protocol: JSON, and JSON followed by raw tensors (the binary tensor extension).

Source: open-inference-protocol, inference_rest.md; Triton, extension_binary_data.md.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import orjson

from trimtab_api.package import Tensor
from trimtab_runtime.protocol.errors import BadRequest
from trimtab_runtime.protocol.inputs import Inputs
from trimtab_runtime.protocol.packed import read_packed
from trimtab_runtime.protocol.request import InferRequest
from trimtab_runtime.protocol.tensors import Array, to_bytes

_LARGE: Final = 4096  # bytes of JSON that are worth another way to read them
_PEEKED: Final = 256  # bytes
_OF_PARAMETERS: Final = rb'"parameters"\s*:\s*(\{[^{}\[\]\\]*\})'
_FIRST_PARAMETERS: Final = re.compile(rb'\s*\{(?:\s*"id"\s*:\s*"[^"\\]*"\s*,)?\s*' + _OF_PARAMETERS)
_LAST_PARAMETERS: Final = re.compile(rb"(?<!\\)" + _OF_PARAMETERS + rb"\s*\}\s*\Z")
_NO_INPUTS: Final = 'the body needs "inputs": a list of {name, shape, datatype, data}'


def read_request(body: bytes, header_length: int | None, inputs: Inputs) -> InferRequest:
    """Read an infer request; `header_length` is that of the JSON part where raw tensors follow. Raises BadRequest.

    A JSON part of no bytes means that the whole body is the single input, and that all outputs go back raw.
    """
    if header_length == 0:
        return InferRequest(_whole(body, inputs), binary=True)
    content = _json(body if header_length is None else body[:header_length])
    tensors = content.get("inputs")
    if not isinstance(tensors, list):
        raise BadRequest(_NO_INPUTS)
    feeds = _read_tensors(tensors, b"" if header_length is None else memoryview(body)[header_length:], inputs)
    parameters, request_id = content.get("parameters"), content.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise BadRequest('"id" has to be text')
    if not isinstance(parameters, dict):
        return InferRequest(feeds, request_id, _wanted(content.get("outputs"), False))
    binary = bool(parameters.get("binary_data_output"))
    timeout = _timeout(parameters.get("timeout"))
    return InferRequest(feeds, request_id, _wanted(content.get("outputs"), binary), binary, timeout)


def announced_timeout(body: bytes, header_length: int | None) -> float | None:
    """Return the seconds that a caller waits where that can be seen without reading the body; None elsewhere.

    That is where `parameters` are the first of the body (but for `id`) or the last: so what is seen is the body's own,
    and no text or tensor within it. Raises BadRequest.
    """
    end = len(body) if header_length is None else header_length
    found = _FIRST_PARAMETERS.match(body, 0, min(end, _PEEKED))
    found = found or _LAST_PARAMETERS.search(body, max(0, end - _PEEKED), end)
    try:
        return None if found is None else _timeout(orjson.loads(found[1]).get("timeout"))
    except orjson.JSONDecodeError:
        return None  # who reads all of it says what is wrong


class Writer:
    """Writes infer responses of one model. What is the same in all of them is written once."""

    def __init__(self, name: str, version: str, outputs: Sequence[Tensor]) -> None:
        self._start = b'{"model_name":%b,"model_version":%b' % (orjson.dumps(name), orjson.dumps(version))
        self._outputs = {
            item.name: b'{"name":%b,"datatype":"%b","shape":' % (orjson.dumps(item.name), str(item.datatype).encode())
            for item in outputs
        }

    def write(self, outputs: Mapping[str, Array], request: InferRequest) -> tuple[bytes, int | None]:
        """Return the body and, where raw tensors follow, the length of its JSON part."""
        described: list[bytes] = []
        tail: list[bytes] = []
        for name, array in outputs.items():
            start = self._outputs[name] + _shape(array.shape)
            if request.is_binary(name):
                raw = to_bytes(array)
                tail.append(raw)
                described.append(b'%b,"parameters":{"binary_data_size":%d}}' % (start, len(raw)))
            else:
                data = orjson.dumps(plain(array.ravel()), option=orjson.OPT_SERIALIZE_NUMPY)
                described.append(b'%b,"data":%b}' % (start, data))
        answered = b"" if request.id is None else b',"id":%b' % orjson.dumps(request.id)
        head = b'%b%b,"outputs":[%b]}' % (self._start, answered, b",".join(described))
        return (head + b"".join(tail), len(head)) if tail else (head, None)


@lru_cache(1024)
def _shape(axes: tuple[int, ...]) -> bytes:
    return orjson.dumps(axes)


def plain(array: Array) -> Any:
    """Return what orjson can write: arrays of numbers as they are, half precision widened, text as a list."""
    if array.dtype.kind in "OUS":
        return [item.decode() if isinstance(item, bytes) else item for item in array.ravel().tolist()]
    return np.ascontiguousarray(array, dtype=np.float32 if array.dtype == np.float16 else None)


def nested(array: Array) -> Any:
    """Return the same in the shape of the array, text too."""
    found = plain(array)
    return np.array(found, object).reshape(array.shape).tolist() if isinstance(found, list) else found


def read_json(body: bytes) -> Any:
    """Return what a body holds. Raises BadRequest."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error


def _whole(body: bytes, inputs: Inputs) -> dict[str, Array]:
    only = inputs.only()
    if only is None or only.row_bytes == 0:
        raise BadRequest("a body of raw bytes alone needs a model with one input of numbers whose rows have one shape")
    shape = [max(1, len(body) // only.row_bytes), *only.declared.shape[1:]]
    return {only.name: only.from_bytes(only.datatype, shape, body)}


def _read_tensors(tensors: list[Any], raw: bytes | memoryview, inputs: Inputs) -> dict[str, Array]:
    feeds: dict[str, Array] = {}
    for item in tensors:
        if not isinstance(item, dict):
            raise BadRequest(_NO_INPUTS)
        found = inputs.by_name.get(str(item.get("name")))
        if found is None or found.name in feeds:
            break
        parameters = item.get("parameters")
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if size is not None:
            feeds[found.name] = found.from_bytes(item.get("datatype"), item.get("shape"), _part(found.name, raw, size))
            raw = raw[size:]
        elif "data" in item:
            feeds[found.name] = found.from_numbers(item.get("datatype"), item.get("shape"), item["data"])
        else:
            raise BadRequest(f'input {found.name} needs "data", or binary_data_size and its bytes after the JSON part')
    if len(feeds) != len(inputs) or len(feeds) != len(tensors):
        raise inputs.mismatch(str(item.get("name")) for item in tensors)
    if len(raw):
        raise BadRequest(f"{len(raw)} bytes are left after the last tensor")
    return feeds


def _part(name: str, raw: bytes | memoryview, size: Any) -> bytes | memoryview:
    if not isinstance(size, int) or not 0 <= size <= len(raw):
        raise BadRequest(f"input {name}: binary_data_size is {size}, but {len(raw)} bytes are left")
    return raw[:size]


def _wanted(outputs: Any, binary: bool) -> Mapping[str, bool] | None:
    if not outputs:
        return None
    if not isinstance(outputs, list) or not all(isinstance(item, dict) and "name" in item for item in outputs):
        raise BadRequest('"outputs" has to be a list of {name}')
    return {str(item["name"]): bool(_parameters(item).get("binary_data", binary)) for item in outputs}


def _timeout(microseconds: Any) -> float | None:
    """Read how long the caller waits, as Triton has it: microseconds, and 0 for as long as it takes."""
    if not microseconds:
        return None
    if not isinstance(microseconds, int) or microseconds < 0:
        raise BadRequest(f"the parameter timeout is {microseconds!r}; it has to be a number of microseconds")
    return microseconds / 1e6


def _parameters(item: Mapping[str, Any]) -> Mapping[str, Any]:
    found = item.get("parameters")
    return found if isinstance(found, dict) else {}


def _json(body: bytes) -> dict[str, Any]:
    content = (read_packed(body) if len(body) >= _LARGE else None) or read_json(body)
    if not isinstance(content, dict):
        raise BadRequest("the body has to be a JSON object")
    return content
