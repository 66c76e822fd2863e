"""The REST bodies of TensorFlow Serving, which KServe's version 1 shares: rows (`instances`) or columns (`inputs`).

Source: tensorflow/serving, g3doc/api_rest.md; KServe, data plane version 1. Binary values are {"b64": text}.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

import orjson

from trimtab_api.package import Tensor
from trimtab_runtime.protocol.errors import BadRequest
from trimtab_runtime.protocol.inputs import Inputs
from trimtab_runtime.protocol.rest import nested, read_json
from trimtab_runtime.protocol.tensors import Array

SIGNATURE: Final = "serving_default"
_FORMS: Final = 'exactly one of "instances" (a list of rows) and "inputs" (columns by name)'
_TYPES: Final = {
    "BOOL": "DT_BOOL",
    "UINT8": "DT_UINT8",
    "UINT16": "DT_UINT16",
    "UINT32": "DT_UINT32",
    "UINT64": "DT_UINT64",
    "INT8": "DT_INT8",
    "INT16": "DT_INT16",
    "INT32": "DT_INT32",
    "INT64": "DT_INT64",
    "FP16": "DT_HALF",
    "FP32": "DT_FLOAT",
    "FP64": "DT_DOUBLE",
    "BYTES": "DT_STRING",
}


def read_request(body: bytes, inputs: Inputs) -> tuple[dict[str, Array], bool]:
    """Return the arrays by input name, and whether they came as rows. Raises BadRequest."""
    content = read_json(body)
    if not isinstance(content, dict) or ("instances" in content) == ("inputs" in content):
        raise BadRequest(f"send a JSON object with {_FORMS}")
    if content.get("signature_name") not in (None, "", SIGNATURE):
        raise BadRequest(f"there is no signature {content['signature_name']}; the model has {SIGNATURE}")
    is_rows = "instances" in content
    columns = _columns_of_rows(content["instances"], inputs) if is_rows else _columns(content["inputs"], inputs)
    if sorted(columns) != sorted(inputs.by_name):
        raise inputs.mismatch(columns)
    return {name: inputs.by_name[name].from_batch(_decoded(value)) for name, value in columns.items()}, is_rows


def write_response(outputs: Mapping[str, Array], is_rows: bool) -> bytes:
    """Return `predictions` row by row, or `outputs` by name; a single output goes without its name."""
    if len(outputs) == 1:
        (only,) = outputs.values()
        return _dumped("predictions" if is_rows else "outputs", nested(only))
    columns = {name: nested(array) for name, array in outputs.items()}
    if not is_rows:
        return _dumped("outputs", columns)
    count = len(next(iter(columns.values())))
    return _dumped("predictions", [{name: column[row] for name, column in columns.items()} for row in range(count)])


def metadata(name: str, version: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> dict[str, Any]:
    """Return the metadata of a model, as TensorFlow Serving words its signatures."""
    signature = {
        "inputs": {tensor.name: _described(tensor) for tensor in inputs},
        "outputs": {tensor.name: _described(tensor) for tensor in outputs},
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": version},
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
    }


def _columns_of_rows(rows: Any, inputs: Inputs) -> dict[str, Any]:
    if not isinstance(rows, list) or not rows:
        raise BadRequest('"instances" has to be a list of at least one row')
    if all(isinstance(row, dict) and "b64" not in row for row in rows):
        names = list(rows[0])
        if any(list(row) != names and sorted(row) != sorted(names) for row in rows):
            raise BadRequest("every row has to have the same inputs")
        return {name: [row[name] for row in rows] for name in names}
    if only := inputs.only():
        return {only.name: rows}
    raise BadRequest(f"rows have to be {{name: value}}; inputs are {list(inputs.by_name)}")


def _columns(columns: Any, inputs: Inputs) -> dict[str, Any]:
    if isinstance(columns, dict) and "b64" not in columns:
        return columns
    if only := inputs.only():
        return {only.name: columns}
    raise BadRequest(f'"inputs" has to be {{name: column}}; inputs are {list(inputs.by_name)}')


def _decoded(value: Any) -> Any:
    """Return a value with what is in base64 as bytes; numbers are not looked at one by one."""
    if isinstance(value, list):
        return [_decoded(item) for item in value] if value and isinstance(value[0], list | dict) else value
    if isinstance(value, dict):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (KeyError, TypeError, binascii.Error) as error:
            raise BadRequest(f'an object in the data has to be {{"b64": text}}: {error}') from error
    return value


def _dumped(name: str, content: Any) -> bytes:
    return orjson.dumps({name: content}, option=orjson.OPT_SERIALIZE_NUMPY)


def _described(tensor: Tensor) -> dict[str, Any]:
    sizes = [{"size": str(axis), "name": ""} for axis in tensor.shape]
    return {
        "dtype": _TYPES[tensor.datatype],
        "tensor_shape": {"dim": sizes, "unknown_rank": False},
        "name": tensor.name,
    }
