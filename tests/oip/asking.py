"""Ask a server over REST, in JSON and with raw tensors, and read what it answers."""

import json
from typing import Any

import httpx
import numpy as np

from served import NUMPY, Arrays, Served, from_raw, raw

LENGTH = "Inference-Header-Content-Length"


def infer(http: httpx.Client, served: Served, arrays: Arrays, **more: Any) -> dict[str, Any]:
    """Return the answer to arrays: in JSON where there is such a form, else raw."""
    if served.needs_binary_tensors:
        answer, _ = infer_raw(http, served, arrays, binary_data_output=False, **more)
        return answer
    return asked(http, f"{served.path}/infer", {"inputs": served.listed(arrays), **more})


def asked(http: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def infer_raw(
    http: httpx.Client, served: Served, arrays: Arrays, binary_data_output: bool = True, **more: Any
) -> tuple[dict[str, Any], bytes]:
    """Return the JSON part of the answer to raw tensors, and what follows it."""
    pieces = [raw(array) for array in arrays.values()]
    tensors = [
        {**tensor, "parameters": {"binary_data_size": len(piece)}}
        for tensor, piece in zip(served.tensors(arrays), pieces, strict=True)
    ]
    parameters = {"binary_data_output": binary_data_output}
    head = json.dumps({"inputs": tensors, "parameters": parameters, **more}).encode()
    headers = {LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}
    answer = http.post(f"{served.path}/infer", content=head + b"".join(pieces), headers=headers)
    assert answer.status_code == 200, answer.text
    end = int(answer.headers.get(LENGTH, len(answer.content)))
    return json.loads(answer.content[:end]), answer.content[end:]


def arrays_of(answer: dict[str, Any], tail: bytes = b"") -> Arrays:
    """Return the outputs of an answer as arrays."""
    found = {}
    for output in answer["outputs"]:
        size = (output.get("parameters") or {}).get("binary_data_size")  # some write null for none
        if size is None:
            found[output["name"]] = np.array(output["data"], NUMPY[output["datatype"]]).reshape(output["shape"])
        else:
            found[output["name"]] = from_raw(tail[:size], output["datatype"], output["shape"])
            tail = tail[size:]
    assert not tail
    return found
