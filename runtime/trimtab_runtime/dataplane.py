"""What every protocol asks for: is it live, is it ready, what is it, infer. Servers are thin layers over this."""

from collections.abc import Mapping
from typing import Any

from trimtab_api.package import Tensor
from trimtab_runtime.batching import Batcher
from trimtab_runtime.model.session import Model
from trimtab_runtime.protocol.errors import BadRequest, UnknownModel
from trimtab_runtime.protocol.rest import InferRequest
from trimtab_runtime.protocol.tensors import Array

SERVER_NAME = "trimtab"
SERVER_VERSION = "0.1.0"
EXTENSIONS = ("binary_tensor_data",)
PLATFORM = "onnx_onnxv1"


class DataPlane:
    """One model under one name and version. `ready` turns false when the process begins to drain."""

    def __init__(self, name: str, version: str, model: Model, batcher: Batcher) -> None:
        self.name = name
        self.version = version
        self.ready = True
        self._model = model
        self._batcher = batcher

    @property
    def package(self) -> Any:
        return self._model.package

    def find(self, name: str, version: str | None) -> None:
        """Raise UnknownModel unless this is the model that is served."""
        if name != self.name or version not in (None, "", self.version):
            raise UnknownModel(f"there is no model {name} {version or ''}; this server has {self.name} {self.version}")

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of the model as the protocol words it."""
        package = self._model.package
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": PLATFORM,
            "inputs": [_describe(item) for item in package.inputs],
            "outputs": [_describe(item) for item in package.outputs],
        }

    async def infer(self, request: InferRequest) -> Mapping[str, Array]:
        """Return the outputs asked for. Raises the errors of protocol/errors.py."""
        rows = {name: len(array) for name, array in request.feeds.items()}
        if len(set(rows.values())) != 1:
            raise BadRequest(f"every input needs the same number of rows; given {rows}")
        names = [item.name for item in self._model.package.outputs]
        unknown = [name for name in request.wanted or () if name not in names]
        if unknown:
            raise BadRequest(f"there is no output {unknown}; the model has {names}")
        outputs = await self._batcher.infer(request.feeds)
        return outputs if request.wanted is None else {name: outputs[name] for name in request.wanted}


def _describe(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": str(tensor.datatype), "shape": list(tensor.shape)}
