"""The OpenAPI document of a server: what its REST endpoints take and give, with the tensors of the model it serves."""

from typing import Any, Final

from trimtab_api.package import Tensor
from trimtab_runtime.dataplane import SERVER_VERSION, DataPlane

_NUMBER: Final = {"oneOf": [{"type": "number"}, {"type": "string"}, {"type": "boolean"}]}
_LONGEST_EXAMPLE: Final = 16  # of an axis of any length


def document(plane: DataPlane, explains: bool = False) -> dict[str, Any]:
    """Return the document, in OpenAPI 3.1; where something `explains` answers, with that."""
    name, version = plane.name, plane.version
    infer = _post("Inference by the Open Inference Protocol, version 2", _infer_request(plane), _INFER_RESPONSE)
    rows = {"type": "object", "properties": {"instances": {"type": "array"}, "inputs": {}}, "example": example(plane)}
    return {
        "openapi": "3.1.0",
        "info": {"title": f"{name}, version {version}", "version": SERVER_VERSION},
        "paths": {
            "/predict": {
                "post": _post("Predictions for a person: rows in, named results out", rows, {"type": "object"})
            },
            f"/v2/models/{name}/infer": {"post": infer},
            f"/v2/models/{name}/versions/{version}/infer": {"post": infer},
            **(
                {"/explain": {"post": _post("Which features of a row led to the answer", rows, _EXPLANATIONS)}}
                if explains
                else {}
            ),
            f"/v1/models/{name}:predict": {"post": _post("As TensorFlow Serving has it", rows, {"type": "object"})},
            f"/v2/models/{name}": {"get": _get("What the model takes and gives")},
            f"/v2/models/{name}/ready": {"get": _get("Whether the model is ready")},
            "/v2": {"get": _get("What the server is")},
            "/v2/health/live": {"get": _get("Whether the server runs")},
            "/v2/health/ready": {"get": _get("Whether the server is ready for calls")},
            "/metrics": {"get": {"summary": "Metrics for Prometheus", "responses": {"200": {"description": "text"}}}},
        },
    }


def example(plane: DataPlane) -> dict[str, Any]:
    """Return a body of /predict with one row of zeros."""
    return {"inputs": {tensor.name: [_zeros(tensor, list(tensor.shape[1:]))] for tensor in plane.package.inputs}}


def _zeros(tensor: Tensor, axes: list[int]) -> Any:
    if not axes:
        return {"BYTES": "", "BOOL": False}.get(tensor.datatype, 0)
    length = _LONGEST_EXAMPLE if axes[0] == -1 else axes[0]
    return [_zeros(tensor, axes[1:])] * length


def _infer_request(plane: DataPlane) -> dict[str, Any]:
    tensors = [
        {
            "type": "object",
            "required": ["name", "shape", "datatype"],
            "properties": {
                "name": {"const": tensor.name},
                "datatype": {"const": str(tensor.datatype)},
                "shape": {"type": "array", "items": {"type": "integer"}, "description": f"fits {list(tensor.shape)}"},
                "data": {"type": "array", "description": "nested or flat; absent where raw bytes follow the JSON"},
                "parameters": {"type": "object", "properties": {"binary_data_size": {"type": "integer"}}},
            },
        }
        for tensor in plane.package.inputs
    ]
    count = len(tensors)
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "inputs": {"type": "array", "minItems": count, "maxItems": count, "items": {"oneOf": tensors}},
            "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
            "parameters": {
                "type": "object",
                "properties": {"binary_data_output": {"type": "boolean"}, "timeout": {"type": "integer"}},
            },
        },
    }


_INFER_RESPONSE: Final = {
    "type": "object",
    "required": ["model_name", "outputs"],
    "properties": {
        "id": {"type": "string"},
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "shape", "datatype"],
                "properties": {"data": {"type": "array", "items": _NUMBER}},
            },
        },
    },
}
_EXPLANATIONS: Final = {
    "type": "object",
    "properties": {
        "method": {"enum": ["shap", "lime"]},
        "samples": {"type": "integer"},
        "complete": {"type": "boolean"},
        "explanations": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "prediction": {"type": "number"},
                    "base": {"type": "number"},
                    "strongest": {"type": "array", "items": {"type": "object"}},
                    "inputs": {"type": "object"},
                },
            },
        },
    },
}
_ERROR: Final = {
    "description": "what was expected",
    "content": {
        "application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}},
    },
}


def _get(summary: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}}
    return {"summary": summary, "responses": {"200": {"description": "as said", "content": content}}}


def _post(summary: str, request: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    answered = {"description": "the answer", "content": {"application/json": {"schema": response}}}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {"200": answered, "400": _ERROR, "503": _ERROR},
    }
