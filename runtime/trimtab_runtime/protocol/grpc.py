"""The gRPC messages of the protocol: typed contents or raw bytes to arrays and back."""

from collections.abc import Mapping
from typing import Any, Final

from trimtab_api.package import Datatype
from trimtab_runtime.protocol import oip_pb2
from trimtab_runtime.protocol.errors import BadRequest
from trimtab_runtime.protocol.inputs import Input, Inputs
from trimtab_runtime.protocol.request import InferRequest
from trimtab_runtime.protocol.tensors import Array, datatype_of, to_bytes

_CONTENTS: Final[Mapping[str, str]] = {
    Datatype.BOOL: "bool_contents",
    Datatype.INT8: "int_contents",
    Datatype.INT16: "int_contents",
    Datatype.INT32: "int_contents",
    Datatype.INT64: "int64_contents",
    Datatype.UINT8: "uint_contents",
    Datatype.UINT16: "uint_contents",
    Datatype.UINT32: "uint_contents",
    Datatype.UINT64: "uint64_contents",
    Datatype.FP32: "fp32_contents",
    Datatype.FP64: "fp64_contents",
    Datatype.BYTES: "bytes_contents",
}


def read_request(request: Any, inputs: Inputs) -> InferRequest:
    """Read a ModelInferRequest. Raises BadRequest."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise BadRequest(f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs")
    feeds: dict[str, Array] = {}
    for index, item in enumerate(request.inputs):
        found = inputs.by_name.get(item.name)
        if found is None or found.name in feeds:
            break
        if raw:
            feeds[found.name] = found.from_bytes(item.datatype, list(item.shape), raw[index])
        else:
            feeds[found.name] = found.from_numbers(item.datatype, list(item.shape), _typed(found, item.contents))
    if len(feeds) != len(inputs) or len(feeds) != len(request.inputs):
        raise inputs.mismatch(item.name for item in request.inputs)
    wanted = {item.name: bool(raw) for item in request.outputs} or None
    return InferRequest(feeds, request.id or None, wanted, binary=bool(raw))


def write_response(name: str, version: str, outputs: Mapping[str, Array], request: InferRequest) -> Any:
    """Return a ModelInferResponse: raw where the request was raw or a type has no typed form."""
    response = oip_pb2.ModelInferResponse(model_name=name, model_version=version, id=request.id or "")
    raw = request.binary or any(datatype_of(array) not in _CONTENTS for array in outputs.values())
    for key, array in outputs.items():
        item = response.outputs.add(name=key, datatype=datatype_of(array), shape=array.shape)
        if raw:
            response.raw_output_contents.append(to_bytes(array))
        else:
            getattr(item.contents, _CONTENTS[item.datatype]).extend(_listed(array))
    return response


def _typed(declared: Input, contents: Any) -> list[Any]:
    field = _CONTENTS.get(declared.datatype)
    if field is None:
        raise BadRequest(f"input {declared.name}: {declared.datatype} is sent in raw_input_contents")
    return list(getattr(contents, field))


def _listed(array: Array) -> list[Any]:
    if array.dtype.kind in "OUS":
        return [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel()]
    listed: list[Any] = array.ravel().tolist()
    return listed
