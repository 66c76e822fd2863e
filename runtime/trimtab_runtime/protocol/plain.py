"""`POST /predict` for a person with curl: rows as they come to mind, answers with names."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from trimtab_api.package import ModelPackage
from trimtab_runtime.protocol.errors import BadRequest
from trimtab_runtime.protocol.inputs import Inputs
from trimtab_runtime.protocol.rest import nested, plain
from trimtab_runtime.protocol.tensors import Array

_FORMS = (
    '{"inputs": {name: rows}}, {"instances": rows} (rows are {name: value} where the model has several inputs), '
    "or rows alone where it has one"
)


def read_rows(body: bytes, inputs: Inputs) -> dict[str, Array]:
    """Read rows for every input. Raises BadRequest naming the forms that are understood."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}; send {_FORMS}") from error
    rows = _by_input(content, inputs)
    if sorted(rows) != sorted(inputs.by_name):
        raise inputs.mismatch(rows)
    return {name: inputs.by_name[name].from_rows(value) for name, value in rows.items()}


def write_predictions(package: ModelPackage, outputs: Mapping[str, Array]) -> bytes:
    """Return one prediction a row: every output by name, and the label of the first where the package has labels."""
    names = _labels(package, outputs[package.outputs[0].name])
    predictions: list[dict[str, Any]] = []
    for row in range(len(next(iter(outputs.values())))):
        predictions.append({name: _value(array[row]) for name, array in outputs.items()})
        if names:
            predictions[-1]["label"] = names[row]
    return orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)


def _labels(package: ModelPackage, first: Array) -> list[str] | None:
    """Return the label of every row: of the highest score, or of the class that the model names by its number."""
    labels = package.labels
    if labels and first.ndim == 2 and first.shape[1] == len(labels):
        return [labels[index] for index in np.argmax(first, axis=1)]
    if labels and first.ndim == 1 and first.dtype.kind in "iu" and first.min() >= 0 and first.max() < len(labels):
        return [labels[index] for index in first]
    return None


def _value(row: Any) -> Any:
    array = np.asarray(row)
    return plain(array)[0] if array.ndim == 0 else nested(array)


def _by_input(content: Any, inputs: Inputs) -> dict[str, Any]:
    if isinstance(content, dict) and isinstance(content.get("inputs"), dict):
        return dict(content["inputs"])
    rows = content.get("instances") if isinstance(content, dict) else content
    if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
        return {name: [row.get(name) for row in rows] for name in rows[0]}
    if isinstance(rows, list) and (only := inputs.only()):
        return {only.name: rows}
    raise BadRequest(f"send {_FORMS}; inputs are {list(inputs.by_name)}")
