"""What a pass needs of memory, told before it starts, against what this process may have.

The estimate is a constant, what the libraries take, and a multiple of the weights: factors were measured over dense
networks (docs/benchmarks.md, "Memory of a pass"). It is kept low rather than high: a pass that is refused could not
have ended well, and one that is let through may still run out.
"""

import math
import resource
from pathlib import Path
from typing import Final

import onnx

from trimtab_api.errors import InsufficientMemory
from trimtab_api.spec import ModelFormat
from trimtab_optimizer.logs import say
from trimtab_optimizer.package import Model
from trimtab_optimizer.streaming.segments import LARGEST, held_bytes
from trimtab_optimizer.streaming.shards import read_header

LIBRARIES: Final = 400 << 20
TENSORFLOW: Final = 1 << 30  # of the process that converts to LiteRT, besides the weights

_COLLECTION: Final = "a collection has no data in common; each of its models is measured where it is made"
_UNWRITTEN: Final = "its weights are written with those of a later pass only, as the model is large"
_COPIES: Final = 2  # of a weight that ONNX Runtime holds while it loads a model: as it is read, and as kernels want it

_LIMITS: Final = (  # of the container: cgroup v2, then v1
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def check_memory(name: str, weights: int, factor: float, limit: int | None = None, beside: int = 0) -> None:
    """Log the estimate of a pass; `beside` is what its own process takes.

    Raises InsufficientMemory where the estimate is above the container's or machine's limit.
    """
    need, limit = LIBRARIES + beside + int(weights * factor), limit or memory_limit()
    say("memory", name=name, estimate=need, limit=limit)
    if need > limit:
        raise InsufficientMemory(
            f"{name} needs about {_gib(need)} for weights of {_gib(weights)}, and {_gib(limit)} are there; "
            f"set spec.optimization.resources.limits.memory to {-(-need * 5 // 4 >> 30)}Gi or more"
        )


def why_not_run(model: Model) -> str | None:
    """Say why a model is not run to measure it, or return None where it can be."""
    if model.package.format is ModelFormat.COLLECTION:
        return _COLLECTION
    return unwritten(model) or lacks_memory(model)


def unwritten(*models: Model) -> str | None:
    """Say why models are not there to be run, or return None where their weights are written."""
    return _UNWRITTEN if any(model.waiting for model in models) else None


def lacks_memory(*models: Model) -> str | None:
    """Say why models cannot be run side by side to measure them, or return None where there is memory for it."""
    return _lacks(sum(_loaded_bytes(model) for model in models))


def lacks_memory_by_layers(model: Model) -> str | None:
    """Say why a graph cannot be run layer by layer either, or return None where there is memory for it."""
    sizes = [held_bytes(tensor) for tensor in onnx.load(model.weights, load_external_data=False).graph.initializer]
    return _lacks(_COPIES * min(sum(sizes), max([LARGEST, *sizes])))


def _lacks(bytes_held: int) -> str | None:
    need, limit = LIBRARIES + bytes_held, memory_limit()
    if need <= limit:
        return None
    return (
        f"running it takes about {_gib(need)}, and {_gib(limit)} are there; "
        f"set spec.optimization.resources.limits.memory to {-(-need * 5 // 4 >> 30)}Gi or more to have it measured"
    )


def memory_limit() -> int:
    """Return the bytes that this process may have: the container's limit, or what the machine has left."""
    free = _available() + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return min(free, *(found for path in _LIMITS if (found := _read(path))))


def _loaded_bytes(model: Model) -> int:
    if model.package.format is ModelFormat.ONNX:
        return _COPIES * sum(map(held_bytes, onnx.load(model.weights, load_external_data=False).graph.initializer))
    if model.weights.suffix != ".safetensors":
        return model.size_bytes()
    return sum(4 * math.prod(item["shape"]) for item in read_header(model.weights)[1].values())


def _read(path: Path) -> int:
    """Return a limit; what is absent, or no number (`max`), is none, and stands above all others."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 1 << 62


def _available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 1 << 62


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.2f} GiB"
