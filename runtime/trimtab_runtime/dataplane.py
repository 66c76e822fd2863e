"""What every protocol asks of a model: what is it, infer. Servers are thin layers over this."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from trimtab_api.package import Tensor
from trimtab_runtime.engine.batcher import Batcher
from trimtab_runtime.engine.queueing import Done, Feeds, Outputs, Waiting
from trimtab_runtime.model.session import Model
from trimtab_runtime.protocol.asking import COPY_ID
from trimtab_runtime.protocol.errors import BadRequest
from trimtab_runtime.protocol.inputs import Inputs, count_rows
from trimtab_runtime.protocol.request import InferRequest

Witness = Callable[[Feeds, Outputs], None]

SERVER_NAME: Final = "trimtab"
SERVER_VERSION: Final = "0.1.0"
EXTENSIONS: Final = ("binary_tensor_data",)


class DataPlane:
    """One model under one name and version. A `witness` is told of each answer before its caller is."""

    def __init__(self, name: str, version: str, model: Model, batcher: Batcher, witness: Witness | None = None) -> None:
        self.name: Final = name
        self.version: Final = version
        self.package: Final = model.package
        self.inputs: Final = Inputs(model.package.inputs)
        self.platform: Final = model.backend.platform
        self._batcher = batcher
        self._witness = witness
        self._outputs = tuple(item.name for item in model.package.outputs)

    def metadata(self, versions: Sequence[str]) -> dict[str, Any]:
        """Return the metadata of the model as the protocol words it; `versions` are all that its name has."""
        return {
            "name": self.name,
            "versions": list(versions),
            "platform": self.platform,
            "inputs": [_describe(item) for item in self.package.inputs],
            "outputs": [_describe(item) for item in self.package.outputs],
        }

    @property
    def is_crowded(self) -> bool:
        """Tell whether so much waits that it is worth a look how long a caller does, before its request is read."""
        return self._batcher.is_crowded

    def check_room(self, timeout: float | None = None) -> None:
        """Raise Busy where no request can be taken, or none of who waits so many seconds: so none is read in vain."""
        self._batcher.check_room(timeout)

    async def infer(self, request: InferRequest) -> Outputs:
        """Return the outputs asked for. Raises the errors of protocol/errors.py."""
        self._check(request)
        outputs = await self._batcher.infer(request.feeds, request.timeout, request.spent)
        if (witness := self._witness_of(request)) is not None:
            witness(request.feeds, outputs)
        return _wanted(outputs, request)

    def submit(self, request: InferRequest, done: Done) -> Waiting:
        """Do the same, and call `done` with the outputs or the error. Raises what is known to be wrong at once."""
        self._check(request)

        witness = self._witness_of(request)

        def finish(result: Outputs | Exception) -> None:
            if isinstance(result, Exception):
                done(result)
                return
            if witness is not None:
                witness(request.feeds, result)
            done(_wanted(result, request))

        given = done if request.wanted is None and witness is None else finish
        return self._batcher.submit(request.feeds, given, request.timeout, request.spent)

    def _witness_of(self, request: InferRequest) -> Witness | None:
        """Return who is told of the answer: nobody of that to a copy, or servers that shadow each other never end."""
        return None if request.id == COPY_ID else self._witness

    def _check(self, request: InferRequest) -> None:
        if len(request.feeds) > 1:
            count_rows(request.feeds)
        if request.wanted is not None and (unknown := [name for name in request.wanted if name not in self._outputs]):
            raise BadRequest(f"there is no output {unknown}; the model has {list(self._outputs)}")


def _wanted(outputs: Outputs, request: InferRequest) -> Outputs:
    return outputs if request.wanted is None else {name: outputs[name] for name in request.wanted}


def _describe(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": str(tensor.datatype), "shape": list(tensor.shape)}
