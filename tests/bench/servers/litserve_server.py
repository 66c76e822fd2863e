"""LitServe with its fast queue: `litserve_server.py PORT [ROWS SECONDS]`, the last two for batches."""

import os
import sys

import litserve
import numpy as np
import onnxruntime as ort

ROWS, SECONDS = (int(sys.argv[2]), float(sys.argv[3])) if len(sys.argv) > 2 else (1, 0.0)


class Onnx(litserve.LitAPI):
    """A session of one thread, in LitServe's worker process."""

    def setup(self, device) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    def decode_request(self, request):
        tensor = request["inputs"][0]
        rows = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
        return rows[0] if ROWS > 1 else rows

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, rows):
        return self.session.run(["y"], {"x": rows})[0]

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        tensor = {"name": "y", "datatype": "FP32", "shape": [1, output.size], "data": output.ravel().tolist()}
        return {"model_name": "model", "outputs": [tensor]}


if __name__ == "__main__":
    api = Onnx(max_batch_size=ROWS, batch_timeout=SECONDS, api_path="/v2/models/model/infer")
    server = litserve.LitServer(api, accelerator="cpu", fast_queue=True)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
