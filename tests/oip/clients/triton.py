"""Ask a model by each of Triton's clients, and print what they get."""

import asyncio
import json
import sys

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.grpc.aio as over_grpc_aio
import tritonclient.http as over_http
import tritonclient.http.aio as over_http_aio
from exchange import GRPC, MODEL, URL, encoded, read_rows
from tritonclient.utils import np_to_triton_dtype


def inputs(kind, rows, **options):
    found = []
    for name, array in rows.items():
        tensor = kind.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array, **options)
        found.append(tensor)
    return found


def listed(result, names):
    arrays = {name: result.as_numpy(name) for name in names}
    return {name: encoded(array) for name, array in arrays.items()}


def ask_http(rows, found):
    with over_http.InferenceServerClient(URL) as client:
        assert all((client.is_server_live(), client.is_server_ready(), client.is_model_ready(MODEL)))
        names = [item["name"] for item in client.get_model_metadata(MODEL)["outputs"]]
        half = any(array.dtype == np.float16 for array in rows.values())
        for binary_in in (True,) if half else (True, False):
            for binary_out in (True, False):
                outputs = [over_http.InferRequestedOutput(name, binary_data=binary_out) for name in names]
                asked = inputs(over_http, rows, binary_data=binary_in)
                result = client.infer(MODEL, asked, outputs=outputs, request_id="7")
                assert result.get_response()["id"] == "7"
                found[f"http, binary {binary_in} {binary_out}"] = listed(result, names)
        return names


def ask_grpc(rows, found, names):
    with over_grpc.InferenceServerClient(GRPC) as client:
        assert all((client.is_server_live(), client.is_server_ready(), client.is_model_ready(MODEL)))
        assert [item.name for item in client.get_model_metadata(MODEL).outputs] == names
        found["grpc"] = listed(client.infer(MODEL, inputs(over_grpc, rows)), names)


async def ask_aio(rows, found, names):
    client = over_http_aio.InferenceServerClient(URL)
    found["http aio"] = listed(await client.infer(MODEL, inputs(over_http_aio, rows)), names)
    await client.close()
    client = over_grpc_aio.InferenceServerClient(GRPC)
    found["grpc aio"] = listed(await client.infer(MODEL, inputs(over_grpc_aio, rows)), names)
    await client.close()


if __name__ == "__main__":
    rows, found = read_rows(), {}
    names = ask_http(rows, found)
    ask_grpc(rows, found, names)
    asyncio.run(ask_aio(rows, found, names))
    json.dump(found, sys.stdout)
