"""KServe's Python server with a model of one's own, without logs of requests: `kserve_server.py PORT GRPC`."""

import logging
import os
import sys

import onnxruntime as ort
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


def described(values) -> list[dict]:
    """Return what callers are told of tensors, all of which are FP32 here."""
    return [{"name": item.name, "datatype": "FP32", "shape": [-1, *item.shape[1:]]} for item in values]


class Onnx(Model):
    """A session of one thread."""

    def __init__(self) -> None:
        super().__init__("model")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        self.ready = True

    def load(self) -> bool:
        return True

    async def get_input_types(self) -> list[dict]:
        return described(self.session.get_inputs())

    async def get_output_types(self) -> list[dict]:
        return described(self.session.get_outputs())

    def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        answer = self.session.run(["y"], {"x": payload.inputs[0].as_numpy()})[0]
        binary = bool(payload.parameters and payload.parameters.get("binary_data_output"))
        output = InferOutput(name="y", shape=list(answer.shape), datatype="FP32")
        output.set_data_from_numpy(answer, binary_data=binary)
        return InferResponse(response_id=payload.id or "0", model_name=self.name, infer_outputs=[output])


if __name__ == "__main__":
    server = ModelServer(http_port=int(sys.argv[1]), grpc_port=int(sys.argv[2]), enable_latency_logging=False)
    for name in ("kserve", "kserve.trace", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
    server.start([Onnx()])
