"""The other side of the protocol: a request in raw tensors written, and the answer to it read.

Source: open-inference-protocol, inference_rest.md; Triton, extension_binary_data.md.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import orjson

from trimtab_runtime.protocol import strings
from trimtab_runtime.protocol.tensors import NUMPY_TYPES, Array, datatype_of, to_bytes

COPY_ID: Final = "trimtab-shadow"  # of requests that are copies: they are not copied again


class Asked(NamedTuple):
    """A body, and the length of its JSON part."""

    body: bytes
    header_length: int


def write_request(feeds: Mapping[str, Array]) -> Asked:
    """Return a request for all outputs, raw as the inputs are, which is known as a copy by its id."""
    raw = [to_bytes(array) for array in feeds.values()]
    inputs = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": datatype_of(array),
            "parameters": {"binary_data_size": len(part)},
        }
        for (name, array), part in zip(feeds.items(), raw, strict=True)
    ]
    head = orjson.dumps({"id": COPY_ID, "inputs": inputs, "parameters": {"binary_data_output": True}})
    return Asked(b"".join([head, *raw]), len(head))


def read_response(body: bytes, header_length: int) -> dict[str, Array]:
    """Return the outputs of an answer. Raises ValueError, KeyError and TypeError for one that is none."""
    content, at = orjson.loads(body[:header_length]), header_length
    found: dict[str, Array] = {}
    for output in content["outputs"]:
        end = at + output["parameters"]["binary_data_size"]
        found[output["name"]] = _array(output["datatype"], output["shape"], body[at:end])
        at = end
    return found


def _array(datatype: str, shape: Any, raw: bytes) -> Array:
    kind = NUMPY_TYPES[datatype]
    flat = strings.unpack(raw) if kind.kind == "O" else np.frombuffer(raw, kind)
    return flat.reshape(shape)
