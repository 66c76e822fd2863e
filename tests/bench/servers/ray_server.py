"""Ray Serve with one replica: `ray_server.py PORT`."""

import os
import sys
import time

import numpy as np
import onnxruntime as ort
import ray
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
class Onnx:
    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    async def __call__(self, request: Request) -> dict:
        tensor = (await request.json())["inputs"][0]
        rows = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
        answer = self.session.run(["y"], {"x": rows})[0]
        output = {"name": "y", "datatype": "FP32", "shape": list(answer.shape), "data": answer.ravel().tolist()}
        return {"model_name": "model", "outputs": [output]}


if __name__ == "__main__":
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=200 << 20,
        logging_level="ERROR",
        _node_ip_address="127.0.0.1",
        runtime_env={"env_vars": {"MODEL": os.environ["MODEL"]}},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Onnx.bind(), route_prefix="/v2/models/model/infer")
    while True:
        time.sleep(5)
