"""MLServer's way to serve a model of one's own; it has no runtime for ONNX."""

import os

import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse, MetadataTensor


def described(values) -> list[MetadataTensor]:
    """Return what callers are told of tensors, all of which are FP32 here."""
    return [MetadataTensor(name=item.name, datatype="FP32", shape=[-1, *item.shape[1:]]) for item in values]


class Onnx(MLModel):
    """A session of one thread."""

    async def load(self) -> bool:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        self.inputs, self.outputs = described(self.session.get_inputs()), described(self.session.get_outputs())
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0])
        answer = self.session.run(["y"], {"x": rows})[0]
        outputs = [NumpyCodec.encode_output("y", answer)]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
