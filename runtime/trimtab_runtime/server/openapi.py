"""The OpenAPI document of a server: what its REST endpoints take and give, with the tensors of the model it serves."""

from typing import Any, Final

from trimtab_api.package import Tensor
from trimtab_runtime.dataplane import SERVER_VERSION, DataPlane
from trimtab_runtime.server.endpoints import Endpoints

_NUMBER: Final = {"oneOf": [{"type": "number"}, {"type": "string"}, {"type": "boolean"}]}
_LONGEST_EXAMPLE: Final = 16  # of an axis of any length


def document(endpoints: Endpoints, explains: bool = False) -> dict[str, Any]:
    """Return the document, in OpenAPI 3.1; where something `explains` answers, with that."""
    first = endpoints.first.plane
    paths = {"/predict": {"post": _predict(first)}}
    if explains:
        text = "Which features of a row led to the answer"
        paths["/explain"] = {"post": _post(text, _rows(first), _EXPLANATIONS)}
    for endpoint in endpoints.all:
        is_default = endpoints.find(endpoint.plane.name, None) is endpoint
        paths |= _paths(endpoint.plane, is_default)
    return {
        "openapi": "3.1.0",
        "info": {"title": f"{endpoints.name}, version {endpoints.version}", "version": SERVER_VERSION},
        "paths": {
            **paths,
            "/v2/models": {"get": _get("What models there are")},
            "/v2": {"get": _get("What the server is")},
            "/v2/health/live": {"get": _get("Whether the server runs")},
            "/v2/health/ready": {"get": _get("Whether the server is ready for calls")},
            "/metrics": {"get": {"summary": "Metrics for Prometheus", "responses": {"200": {"description": "text"}}}},
        },
    }


def _paths(plane: DataPlane, is_default: bool) -> dict[str, Any]:
    """Return what is there for a model; where it is the default among its versions, also without the version."""
    versioned = f"{plane.name}/versions/{plane.version}"
    infer = _post("Inference by the Open Inference Protocol, version 2", _infer_request(plane), _INFER_RESPONSE)
    v1 = _post("As TensorFlow Serving has it", _rows(plane), {"type": "object"})
    found: dict[str, Any] = {}
    for model in (plane.name, versioned) if is_default else (versioned,):
        found |= {
            f"/predict/{model}": {"post": _predict(plane)},
            f"/v2/models/{model}/infer": {"post": infer},
            f"/v1/models/{model}:predict": {"post": v1},
            f"/v2/models/{model}": {"get": _get("What the model takes and gives")},
            f"/v2/models/{model}/ready": {"get": _get("Whether the model is ready")},
        }
    return found


def _predict(plane: DataPlane) -> dict[str, Any]:
    return _post("Predictions for a person: rows in, named results out", _rows(plane), {"type": "object"})


def _rows(plane: DataPlane) -> dict[str, Any]:
    properties: dict[str, Any] = {"instances": {"type": "array"}, "inputs": {}}
    return {"type": "object", "properties": properties, "example": example(plane)}


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
