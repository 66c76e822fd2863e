"""An inference request as every protocol reads it and every protocol's answer needs it."""

from collections.abc import Mapping
from typing import NamedTuple

from trimtab_runtime.protocol.tensors import Array


class InferRequest(NamedTuple):
    """The arrays by input name. `wanted` maps each requested output to "as raw bytes"; None is all of them.

    `timeout` is how long the caller waits, in seconds; None where it did not say. A named tuple, as one is made for
    each request: a frozen dataclass takes three times as long.
    """

    feeds: Mapping[str, Array]
    id: str | None = None
    wanted: Mapping[str, bool] | None = None
    binary: bool = False
    timeout: float | None = None

    def is_binary(self, output: str) -> bool:
        """Tell whether this output goes back as raw bytes."""
        return self.binary if self.wanted is None else self.wanted[output]
