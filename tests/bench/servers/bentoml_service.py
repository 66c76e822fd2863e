"""BentoML services, without a log of requests and without metrics: `Single`, and `Batched` with its own batching."""

import os

import bentoml
import numpy as np
import onnxruntime as ort

SETTINGS = {
    "traffic": {"timeout": 30},
    "logging": {"access": {"enabled": False}},
    "metrics": {"enabled": False},
    "workers": 1,
}


def session() -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])


@bentoml.service(**SETTINGS)
class Single:
    def __init__(self) -> None:
        self.session = session()

    @bentoml.api
    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.session.run(["y"], {"x": x.astype(np.float32, copy=False)})[0]


@bentoml.service(**SETTINGS)
class Batched:
    def __init__(self) -> None:
        self.session = session()

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)
    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.session.run(["y"], {"x": x.astype(np.float32, copy=False)})[0]
