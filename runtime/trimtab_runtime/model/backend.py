"""What runs a model: the one interface of ONNX Runtime and LiteRT, with what a file says of itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from trimtab_runtime.protocol.tensors import Array


@dataclass(frozen=True, slots=True)
class Found:
    """An input or output as the file has it; -1 is any length, and a `shape` of None is not told before a run."""

    name: str
    datatype: str
    shape: tuple[int, ...] | None


class Backend(Protocol):
    """A loaded file. `run` may be called from any thread."""

    file: str
    platform: str
    inputs: tuple[Found, ...]
    outputs: tuple[Found, ...]

    def run(self, names: list[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Return the outputs of these names, one row for each row of the feeds."""
