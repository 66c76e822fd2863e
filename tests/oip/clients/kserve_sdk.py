"""Ask a model by KServe's clients, and print what they get."""

import asyncio
import json
import sys

import numpy as np
from exchange import GRPC, MODEL, URL, encoded, read_rows
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.utils.numpy_codec import from_np_dtype


def request(rows, binary_in, binary_out):
    inputs = []
    for name, array in rows.items():
        tensor = InferInput(name, list(array.shape), from_np_dtype(array.dtype))
        tensor.set_data_from_numpy(array, binary_data=binary_in)
        inputs.append(tensor)
    parameters = {"binary_data_output": True} if binary_out else None
    return InferRequest(MODEL, inputs, request_id="7", parameters=parameters)


def listed(response):
    assert response.id == "7"
    return {output.name: encoded(output.as_numpy()) for output in response.outputs}


async def ask(rows, found):
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        assert await client.is_server_live(URL)
        assert await client.is_server_ready(URL)
        assert await client.is_model_ready(URL, MODEL)
        half = any(array.dtype == np.float16 for array in rows.values())
        for binary_in in (True,) if half else (True, False):
            for binary_out in (True, False):
                asked = request(rows, binary_in, binary_out)
                found[f"http, binary {binary_in} {binary_out}"] = listed(await client.infer(URL, asked, MODEL))
    async with InferenceGRPCClient(GRPC) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready(MODEL)
        found["grpc, raw"] = listed(await client.infer(request(rows, True, False)))
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
        assert await client.is_server_live(URL)
        assert await client.is_model_ready(URL, MODEL)


if __name__ == "__main__":
    found = {}
    asyncio.run(ask(read_rows(), found))
    json.dump(found, sys.stdout)
