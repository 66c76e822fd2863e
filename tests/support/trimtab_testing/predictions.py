"""What a served model predicts on the digits test set, beside what torch predicts from the trained weights."""

import contextlib
import importlib.util
import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_model

from install import EXAMPLES, trained
from target import Target
from trimtab_runtime.protocol import oip_pb2 as oip
from trimtab_runtime.protocol import oip_pb2_grpc

Logits = NDArray[np.float32]


def held_out() -> tuple[Logits, NDArray[np.int64]]:
    """Return the held-out pixels [540, 64] and their labels [540]."""
    with np.load(trained("digits") / "data-test/data.npz") as data:
        return data["pixels"], data["label"]


def torch_logits(rows: Logits) -> Logits:
    """Return what the trained module computes, [rows, 10]."""
    spec = importlib.util.spec_from_file_location("digits_network", EXAMPLES / "digits/digits.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network: torch.nn.Module = module.build().eval()
    load_model(network, trained("digits") / "model/model.safetensors")
    with torch.inference_mode():
        found: Logits = network(torch.from_numpy(rows)).numpy()
    return found


def rest_logits(port: int, rows: Logits) -> Logits:
    """Return what the served model answers to all rows in one request in JSON."""
    tensor = {"name": "pixels", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v2/models/digits/infer", body)
    with urllib.request.urlopen(request, timeout=30) as answer:
        output: dict[str, Any] = json.load(answer)["outputs"][0]
    return np.array(output["data"], np.float32).reshape(output["shape"])


def grpc_logits(port: int, rows: Logits) -> Logits:
    """Return what the served model answers to all rows in one call with raw tensors."""
    tensor = oip.ModelInferRequest.InferInputTensor(name="pixels", datatype="FP32", shape=rows.shape)
    message = oip.ModelInferRequest(model_name="digits", inputs=[tensor], raw_input_contents=[rows.tobytes()])
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = oip_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=30)  # type: ignore[no-untyped-call]
    return np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(tuple(answer.outputs[0].shape))


@contextlib.contextmanager
def forwarded(target: Target, namespace: str, port: int, service: str = "digits") -> Iterator[int]:
    """Give a port of this machine that leads to one of a Service."""
    command = [*target.kubectl_command(), "-n", namespace, "port-forward", f"service/{service}", f":{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
            assert found, "kubectl forwards no port"
            yield int(found[1])
        finally:
            process.terminate()
