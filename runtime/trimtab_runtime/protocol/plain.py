"""`POST /predict` for a person with curl: rows as they come to mind, answers with names."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from trimtab_api.package import ModelPackage, Tensor
from trimtab_runtime.protocol.errors import BadRequest
from trimtab_runtime.protocol.tensors import NUMPY_TYPES, Array, by_name, check

_FORMS = 'one of {"inputs": {name: rows}}, {"instances": rows}, or rows alone where the model has a single input'


def read_rows(body: bytes, inputs: Sequence[Tensor]) -> dict[str, Array]:
    """Read rows for every input. Raises BadRequest naming the forms that are understood."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}; send {_FORMS}") from error
    rows = _by_input(content, inputs)
    declared = by_name(inputs, rows)
    return {name: _array(declared[name], value) for name, value in rows.items()}


def write_predictions(package: ModelPackage, outputs: Mapping[str, Array]) -> bytes:
    """Return one prediction a row: every output by name, and the label of the first where the package has labels."""
    first = package.outputs[0].name
    count = len(next(iter(outputs.values())))
    predictions = []
    for row in range(count):
        entry: dict[str, Any] = {name: array[row] for name, array in outputs.items()}
        if package.labels and outputs[first].ndim == 2 and outputs[first].shape[1] == len(package.labels):
            entry["label"] = package.labels[int(np.argmax(outputs[first][row]))]
        predictions.append(entry)
    return orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)


def _by_input(content: Any, inputs: Sequence[Tensor]) -> dict[str, Any]:
    if isinstance(content, dict) and isinstance(content.get("inputs"), dict):
        return dict(content["inputs"])
    rows = content.get("instances") if isinstance(content, dict) else content
    if isinstance(rows, list) and len(inputs) == 1:
        return {inputs[0].name: rows}
    raise BadRequest(f"send {_FORMS}; inputs are {[item.name for item in inputs]}")


def _array(declared: Tensor, rows: Any) -> Array:
    try:
        array = np.asarray(rows, dtype=NUMPY_TYPES[declared.datatype])
    except (ValueError, TypeError) as error:
        raise BadRequest(
            f"input {declared.name}: the rows are not {declared.datatype} of one shape: {error}"
        ) from error
    if array.ndim == len(declared.shape) - 1:
        array = array[np.newaxis]
    check(declared, declared.datatype, array.shape)
    return np.ascontiguousarray(array)
