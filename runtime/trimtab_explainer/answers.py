"""What is asked of an explainer, and what it answers: tensors of the Open Inference Protocol, or features by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson

from trimtab_explainer.config import ExplainerConfig
from trimtab_explainer.explain import Asked, Explanation
from trimtab_explainer.features import Choice
from trimtab_explainer.methods import METHODS
from trimtab_runtime.protocol.errors import BadRequest

_TOP: Final = 5
_DIGITS: Final = 9
_LONGEST_NUMBER: Final = 19  # digits


@dataclass(frozen=True, slots=True)
class Facts:
    """The rows that were to be explained, and the seconds that it took."""

    rows: int
    seconds: float


def read_asked(parameters: Mapping[str, Any], config: ExplainerConfig) -> Asked:
    """Read parameters of a request, from its query as text or from its body. Raises BadRequest."""
    method = parameters.get("method", config.method)
    if not isinstance(method, str) or method not in METHODS:
        raise BadRequest(f"there is no method {method!r}; there are {', '.join(METHODS)}")
    timeout = _number(parameters, "timeout", 0, 0, 2**62) / 1e6 or config.most_seconds
    output = parameters.get("output")
    return Asked(
        method=method,
        samples=_number(parameters, "samples", min(config.samples, config.most_samples), 1, config.most_samples),
        seconds=min(timeout, config.most_seconds),
        seed=_number(parameters, "seed", 0, 0, 2**32 - 1),
        output=None if output is None else str(output),
        target=_target(parameters.get("target")),
        choice=Choice(
            inputs=_names(parameters.get("inputs")),
            squares=_number(parameters, "squares", 8, 1, 64),
            no_token=_number(parameters, "no_token", 0, 0, 2**31 - 1),
        ),
    )


def tensors(
    name: str, version: str, request_id: str | None, found: Sequence[Explanation], asked: Asked, facts: Facts
) -> bytes:
    """Return the answer in the form of the protocol: of each input a tensor, and what they add up from."""
    outputs: list[dict[str, Any]] = []
    for at, part in enumerate(found[0].features.parts):
        parts = [item.features.parts[at] for item in found]
        values = [item.features.split(item.attribution.values)[at] for item in found]
        longest = max(len(own) for own in values)
        data = np.stack([np.pad(own, (0, longest - len(own))) for own in values])
        shape = part.shape if all(other.shape == part.shape for other in parts) else (longest,)
        outputs.append(_tensor(f"{part.input}.attributions", "FP64", [len(found), *shape], data.ravel()))
        names = [name for other in parts for name in (*other.names, *[""] * (longest - len(other.names)))]
        outputs.append(_tensor(f"{part.input}.features", "BYTES", [len(found), *shape], names))
    for key, numbers in (
        ("base", [item.attribution.base for item in found]),
        ("prediction", [item.prediction for item in found]),
    ):
        outputs.append(_tensor(key, "FP64", [len(found)], np.array(numbers)))
    outputs.append(_tensor("target", "INT64", [len(found)], [item.target for item in found]))
    content: dict[str, Any] = {"model_name": name, "model_version": version}
    if request_id is not None:
        content["id"] = request_id
    return _dumped(content | {"parameters": _facts(found, asked, facts), "outputs": outputs})


def listed(found: Sequence[Explanation], asked: Asked, facts: Facts) -> bytes:
    """Return the answer for a person: of each row what adds most, and all features by input."""
    return _dumped({"explanations": [_one(item) for item in found], **_facts(found, asked, facts)})


def _one(item: Explanation) -> dict[str, Any]:
    attribution, features = item.attribution, item.features
    names = [name for part in features.parts for name in part.names]
    strongest = np.argsort(-np.abs(attribution.values), kind="stable")[:_TOP]
    inputs: dict[str, Any] = {}
    for part, values in zip(features.parts, features.split(attribution.values), strict=True):
        inputs[part.input] = {"features": part.names, "shape": part.shape, "attributions": _rounded(values)}
    if attribution.errors is not None:
        for part, errors in zip(features.parts, features.split(attribution.errors), strict=True):
            inputs[part.input]["standardErrors"] = _rounded(errors)
    told = {
        "output": item.output,
        "target": item.target,
        "label": item.label,
        "prediction": item.prediction,
        "base": attribution.base,
        "fit": attribution.fit,
        "strongest": [
            {"feature": names[at], "attribution": round(float(attribution.values[at]), _DIGITS)} for at in strongest
        ],
        "inputs": inputs,
    }
    return {key: value for key, value in told.items() if value is not None}


def _facts(found: Sequence[Explanation], asked: Asked, facts: Facts) -> dict[str, Any]:
    return {
        "method": asked.method,
        "samples": sum(item.attribution.samples for item in found),
        "complete": len(found) == facts.rows and all(item.attribution.is_complete for item in found),
        "seconds": round(facts.seconds, 3),
    }


def _tensor(name: str, datatype: str, shape: Sequence[int], data: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": data}


def _rounded(values: Any) -> list[float]:
    return [float(value) for value in np.round(values, _DIGITS)]


def _dumped(content: Any) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def _number(parameters: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = parameters.get(name, default)
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if type(number) is not int or not low <= number <= high:
        raise BadRequest(f"the parameter {name} is {value!r}; it has to be a whole number from {low} to {high}")
    return number


def _names(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    found = value.split(",") if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise BadRequest(f"the parameter inputs is {value!r}; it has to be a list of names")
    return tuple(found)


def _target(value: Any) -> int | str | None:
    if value is None or type(value) is int:
        return value
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) < _LONGEST_NUMBER else value
    raise BadRequest(f"the parameter target is {value!r}; it has to be a label, or a place in the output")
