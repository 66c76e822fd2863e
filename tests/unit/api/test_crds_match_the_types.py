"""The CRDs and the types say the same, field by field, both ways: so no field can be in one and not in the other.

A CRD may be stricter than a type (an enum, a bound), since the API server checks a spec before any program reads it. It
may not be laxer, and its defaults have to be those of the types.
"""

import copy
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trimtab_api.group import GROUP, MODEL_DEPLOYMENT, MODEL_REVISION, VERSION
from trimtab_api.revision import ModelRevisionSpec
from trimtab_api.spec import ModelDeploymentSpec

CRDS = Path(__file__).resolve().parents[3] / "crds"
SIZE_LIMIT = 128 * 1024  # kubectl apply keeps a copy in an annotation, and annotations end at 256 KiB

Schema = dict[str, Any]
TYPES: dict[str, type[BaseModel]] = {"modeldeployments": ModelDeploymentSpec, "modelrevisions": ModelRevisionSpec}
PRIMITIVES = {str: "string", int: "integer", float: "number", bool: "boolean"}


def read_crd(plural: str) -> dict[str, Any]:
    crd: dict[str, Any] = yaml.safe_load((CRDS / f"{plural}.yaml").read_text())
    return crd


def root_schema(plural: str) -> Schema:
    schema: Schema = read_crd(plural)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def spec_schema(plural: str) -> Schema:
    schema: Schema = root_schema(plural)["properties"]["spec"]
    return schema


def without_none(annotation: Any) -> Any:
    """Return the type of an optional field without its None."""
    if get_origin(annotation) in (Union, UnionType):
        (kind,) = [item for item in get_args(annotation) if item is not NoneType]
        return kind
    return annotation


def pairs(path: str, model: type[BaseModel], schema: Schema) -> Iterator[tuple[str, type[BaseModel], Schema]]:
    """Yield every model with the schema that stands for it, from the root down."""
    yield path, model, schema
    for field in model.model_fields.values():
        below = schema["properties"].get(field.alias, {})
        kind = without_none(field.annotation)
        if get_origin(kind) is tuple:
            kind, below = get_args(kind)[0], below.get("items", {})
        if isinstance(kind, type) and issubclass(kind, BaseModel) and "properties" in below:
            yield from pairs(f"{path}.{field.alias}", kind, below)


MODELS = [
    pytest.param(model, schema, id=path)
    for plural, root in TYPES.items()
    for path, model, schema in pairs(plural, root, spec_schema(plural))
]


FIELDS = [
    pytest.param(field, schema["properties"].get(field.alias, {}), id=f"{path}.{field.alias}")
    for plural, root in TYPES.items()
    for path, model, schema in pairs(plural, root, spec_schema(plural))
    for field in model.model_fields.values()
]


def nodes(plural: str, parts: tuple[str, ...] = ("spec", "status")) -> Iterator[tuple[str, Schema]]:
    """Yield every node of a schema below the root that people or programs fill in."""
    properties = root_schema(plural)["properties"]
    waiting = [(name, properties[name]) for name in parts if name in properties]
    while waiting:
        path, node = waiting.pop()
        yield path, node
        waiting += [(f"{path}.{name}", below) for name, below in node.get("properties", {}).items()]
        waiting += [(f"{path}[]", node[key]) for key in ("items", "additionalProperties") if key in node]


def is_bounded(node: Schema) -> bool:
    """Tell whether the API server can know how large a value gets."""
    kind = node.get("type")
    if kind == "array":
        return bool(node.get("maxItems", 1000) <= 64)
    if kind == "object" and "properties" not in node:
        return bool(node.get("maxProperties", 1000) <= 64)
    if kind == "string" or node.get("x-kubernetes-int-or-string"):
        return "enum" in node or node.get("format") == "date-time" or node.get("maxLength", 10**6) <= 32768
    return True


def filled(schema: Schema, value: Any) -> Any:
    """Return a value with the defaults of its schema, as the API server fills them in."""
    if isinstance(value, list):
        return [filled(schema.get("items", {}), item) for item in value]
    if not isinstance(value, dict):
        return value
    result = dict(value)
    for name, below in schema.get("properties", {}).items():
        if name not in result and "default" in below:
            result[name] = copy.deepcopy(below["default"])
        if name in result:
            result[name] = filled(below, result[name])
    return result


def default_of(field: FieldInfo) -> Any:
    """Return the wire form of a field's default; None where it is absent."""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True, exclude_none=True)
    if isinstance(value, tuple):
        return [str(item) for item in value]
    return value.value if isinstance(value, Enum) else value


@pytest.mark.parametrize(("model", "schema"), MODELS)
def test_the_crd_has_the_fields_of_the_type_and_no_other(model: type[BaseModel], schema: Schema) -> None:
    assert set(schema["properties"]) == {field.alias for field in model.model_fields.values()}


@pytest.mark.parametrize(("model", "schema"), MODELS)
def test_the_crd_requires_what_the_type_requires(model: type[BaseModel], schema: Schema) -> None:
    required = {field.alias for field in model.model_fields.values() if field.is_required()}

    assert set(schema.get("required", [])) == required


@pytest.mark.parametrize(("field", "schema"), FIELDS)
def test_the_crd_fills_in_the_default_of_the_type(field: FieldInfo, schema: Schema) -> None:
    if field.is_required() or default_of(field) is None:
        assert "default" not in schema
    else:
        assert filled(schema, copy.deepcopy(schema["default"])) == default_of(field)


@pytest.mark.parametrize(("field", "schema"), FIELDS)
def test_the_crd_has_the_kind_of_the_type(field: FieldInfo, schema: Schema) -> None:
    kind = without_none(field.annotation)
    origin = get_origin(kind)
    if origin is tuple:
        assert schema["type"] == "array"
    elif origin is dict or (isinstance(kind, type) and issubclass(kind, BaseModel)):
        assert schema["type"] == "object"
    elif issubclass(kind, Enum):
        assert schema["enum"] == [item.value for item in kind]
    else:
        assert schema["type"] == PRIMITIVES[kind]


@pytest.mark.parametrize("plural", TYPES)
def test_every_node_has_a_description(plural: str) -> None:
    silent = [path for path, node in nodes(plural) if not node.get("description", "").endswith(".")]

    assert not silent


@pytest.mark.parametrize("plural", TYPES)
def test_every_list_map_and_string_has_a_bound_that_keeps_cel_cheap(plural: str) -> None:
    unbounded = [path for path, node in nodes(plural) if not is_bounded(node)]

    assert not unbounded


@pytest.mark.parametrize("plural", TYPES)
def test_every_list_says_how_two_appliers_share_it(plural: str) -> None:
    lists = {path: node.get("x-kubernetes-list-type") for path, node in nodes(plural) if node.get("type") == "array"}

    assert set(lists.values()) <= {"atomic", "set", "map"}, lists


@pytest.mark.parametrize("plural", TYPES)
def test_every_rule_says_a_sentence_that_yaml_did_not_cut(plural: str) -> None:
    rules = [rule for _, node in nodes(plural) for rule in node.get("x-kubernetes-validations", [])]
    cut = [rule["message"] for rule in rules if rule["message"].endswith((" or", " and", " the", ",", ":"))]

    assert rules
    assert not cut


def test_every_uri_has_the_same_rules() -> None:
    uris = [node for path, node in nodes("modeldeployments", ("spec",)) if path.endswith((".uri", ".data"))]

    assert len(uris) == 7
    assert all(node["x-kubernetes-validations"] == uris[0]["x-kubernetes-validations"] for node in uris)


@pytest.mark.parametrize("plural", TYPES)
def test_a_crd_is_small_enough_for_every_way_of_applying_it(plural: str) -> None:
    assert (CRDS / f"{plural}.yaml").stat().st_size < SIZE_LIMIT


@pytest.mark.parametrize(
    ("plural", "kind"), [("modeldeployments", MODEL_DEPLOYMENT), ("modelrevisions", MODEL_REVISION)]
)
def test_a_crd_is_named_as_the_programs_name_it(plural: str, kind: str) -> None:
    crd = read_crd(plural)

    assert crd["metadata"]["name"] == f"{plural}.{GROUP}"
    assert (crd["spec"]["group"], crd["spec"]["names"]["kind"]) == (GROUP, kind)
    assert [version["name"] for version in crd["spec"]["versions"]] == [VERSION]
