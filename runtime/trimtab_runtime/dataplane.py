"""What every protocol asks for: is it ready, what is it, infer. Servers are thin layers over this."""

from collections.abc import Mapping
from typing import Any, Final

from trimtab_api.package import Tensor
from trimtab_runtime.batching import Batcher
from trimtab_runtime.model.session import Model
from trimtab_runtime.protocol.errors import BadRequest, UnknownModel
from trimtab_runtime.protocol.request import InferRequest
from trimtab_runtime.protocol.tensors import Array

SERVER_NAME: Final = "trimtab"
SERVER_VERSION: Final = "0.1.0"
EXTENSIONS: Final = ("binary_tensor_data",)


class DataPlane:
    """One model under one name and version. `ready` turns false when the process begins to drain, and stays so."""

    def __init__(self, name: str, version: str, model: Model, batcher: Batcher) -> None:
        self.name: Final = name
        self.version: Final = version
        self.package: Final = model.package
        self.platform: Final = model.backend.platform
        self.ready = True
        self._batcher = batcher
        self._outputs = tuple(item.name for item in model.package.outputs)

    def find(self, name: str, version: str | None) -> None:
        """Raise UnknownModel unless this is the model that is served."""
        if name != self.name or version not in (None, "", self.version):
            asked = f"{name} version {version}" if version else name
            raise UnknownModel(f"there is no model {asked}; this server has {self.name} version {self.version}")

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of the model as the protocol words it."""
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": self.platform,
            "inputs": [_describe(item) for item in self.package.inputs],
            "outputs": [_describe(item) for item in self.package.outputs],
        }

    async def infer(self, request: InferRequest) -> Mapping[str, Array]:
        """Return the outputs asked for. Raises the errors of protocol/errors.py."""
        rows = {name: len(array) for name, array in request.feeds.items()}
        if len(set(rows.values())) != 1:
            raise BadRequest(f"every input needs the same number of rows; given {rows}")
        unknown = [name for name in request.wanted or () if name not in self._outputs]
        if unknown:
            raise BadRequest(f"there is no output {unknown}; the model has {list(self._outputs)}")
        outputs = await self._batcher.infer(request.feeds)
        return outputs if request.wanted is None else {name: outputs[name] for name in request.wanted}


def _describe(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": str(tensor.datatype), "shape": list(tensor.shape)}
