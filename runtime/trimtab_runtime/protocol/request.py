"""An inference request as every protocol reads it and every protocol's answer needs it."""

from collections.abc import Mapping
from dataclasses import dataclass

from trimtab_runtime.protocol.tensors import Array


@dataclass(frozen=True, slots=True)
class InferRequest:
    """The arrays by input name. `wanted` maps each requested output to "as raw bytes"; None is all of them."""

    feeds: Mapping[str, Array]
    id: str | None = None
    wanted: Mapping[str, bool] | None = None
    binary: bool = False

    def is_binary(self, output: str) -> bool:
        """Tell whether this output goes back as raw bytes."""
        return self.binary if self.wanted is None else self.wanted[output]
