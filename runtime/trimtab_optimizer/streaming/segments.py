"""Run a graph that is too large to be loaded: some layers at a time, for all rows.

Each segment is loaded once. What later ones read of it waits on the disk, batch by batch, until the last reader had it.
So memory is that of one segment and one batch, however large the model is. (The order of loops, layers outside and rows
inside, is also that of GPTQ, Frantar et al. 2022, arXiv:2210.17323.)
"""

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from trimtab_api.errors import InvalidData, PassFailed
from trimtab_optimizer.streaming.graphs import free_prefix, values_read
from trimtab_optimizer.tensors import Arrays

LARGEST: Final = 256 << 20  # bytes of weights in a segment, unless a single node has more

_FOLDER: Final = "session.model_external_initializers_file_folder_path"
_REDUCTIONS: Final = ("ReduceMin", "ReduceMax", "ReduceL1")  # of each value that is measured
_HALVES: Final = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})  # computed in float32


@dataclass(frozen=True, slots=True)
class Range:
    """The smallest and the largest of some values."""

    low: float
    high: float

    def joined(self, other: "Range") -> "Range":
        """Return the range of both."""
        return Range(min(self.low, other.low), max(self.high, other.high))


@dataclass(frozen=True, slots=True)
class Segment:
    """Nodes that are loaded together, the values that they read of earlier ones, and those that later ones read."""

    nodes: tuple[NodeProto, ...]
    takes: tuple[str, ...]
    gives: tuple[str, ...]


def ranges_of(
    file: Path, names: Collection[str], batches: Iterable[Arrays], scratch: Path, largest: int = LARGEST
) -> dict[str, Range]:
    """Return the range of values that a graph computes of all batches, by name.

    Raises PassFailed for a graph that cannot be run so, and InvalidData for values that are no numbers.
    """
    waiting = _Waiting(scratch)
    found: dict[str, Range] = {}
    for ran in _run(file, waiting.fill(batches), waiting, set(names), largest):
        found |= {name: span.joined(found.get(name, span)) for name, span in ran.ranges.items()}
    waiting.keep_only(())
    return found


def answers_of(
    file: Path, outputs: Sequence[str], batches: Iterable[Arrays], scratch: Path, largest: int = LARGEST
) -> Iterator[list[NDArray[Any]]]:
    """Yield outputs of a graph, batch by batch, as its last segment computes them. Raises PassFailed."""
    waiting = _Waiting(scratch)
    for ran in _run(file, waiting.fill(batches), waiting, frozenset(), largest):
        if ran.is_last:
            yield [ran.values[name] if name in ran.values else waiting.read(ran.batch, name) for name in outputs]


@dataclass(frozen=True, slots=True)
class _Ran:
    """What one segment computed of one batch."""

    is_last: bool
    batch: int
    values: dict[str, NDArray[Any]]
    ranges: dict[str, Range]


def _run(file: Path, rounds: int, waiting: "_Waiting", measured: Set[str], largest: int) -> Iterator[_Ran]:
    """Run all batches that wait, segment by segment. Nothing that the last one computes has to wait."""
    model = onnx.load(file, load_external_data=False)
    segments = segments_of(model.graph, largest)
    outputs = {value.name for value in model.graph.output}
    for number, segment in enumerate(segments):
        session = _Session(model, segment, _read_by(segment.nodes) & measured, waiting.types, file.parent)
        is_last = number == len(segments) - 1
        for batch in range(rounds):
            values, ranges = session.run({name: waiting.read(batch, name) for name in segment.takes})
            for name, array in values.items() if not is_last else ():
                waiting.keep(batch, name, array)
            yield _Ran(is_last, batch, values, ranges)
        waiting.keep_only(outputs.union(*(later.takes for later in segments[number + 1 :])))


def held_bytes(tensor: TensorProto) -> int:
    """Return the bytes of a constant once it is loaded."""
    halves = tensor.data_type in _HALVES
    width = 4 if halves else helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return math.prod(tensor.dims) * width


def segments_of(graph: GraphProto, largest: int) -> list[Segment]:
    """Return the nodes of a graph, which are in the order of computation, in segments."""
    groups = list(_groups(graph, largest))
    constants = {tensor.name for tensor in graph.initializer} | {item.values.name for item in graph.sparse_initializer}
    made_by = {name: number for number, nodes in enumerate(groups) for node in nodes for name in node.output if name}
    made_by |= {value.name: -1 for value in graph.input if value.name not in constants}
    takes = [sorted({n for n in _read_by(nodes) if made_by.get(n, i) < i}) for i, nodes in enumerate(groups)]
    taken = {name for names in takes for name in names} | {value.name for value in graph.output}
    gives = [[name for node in nodes for name in node.output if name in taken] for nodes in groups]
    return [Segment(tuple(a), tuple(b), tuple(c)) for a, b, c in zip(groups, takes, gives, strict=True)]


def _groups(graph: GraphProto, largest: int) -> Iterator[list[NodeProto]]:
    sizes = {tensor.name: held_bytes(tensor) for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    held: set[str] = set()
    for node in graph.node:
        wanted = {name for name in values_read(node) if name in sizes}
        if nodes and sum(sizes[name] for name in held | wanted) > largest:
            yield nodes
            nodes, held = [], set()
        nodes.append(node)
        held |= wanted
    yield nodes


def _read_by(nodes: Sequence[NodeProto]) -> set[str]:
    return {name for node in nodes for name in values_read(node)}


@dataclass
class _Waiting:
    """Values on the disk, batch by batch, that a later segment reads."""

    folder: Path
    types: dict[str, int] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)
    _free: Iterator[int] = field(default_factory=itertools.count)

    def fill(self, batches: Iterable[Arrays]) -> int:
        """Keep the inputs of all batches, and return how many batches there are."""
        number = 0
        for number, batch in enumerate(batches, start=1):
            for name, values in batch.items():
                self.keep(number - 1, name, values)
        return number

    def keep(self, batch: int, name: str, values: NDArray[Any]) -> None:
        """Keep values of a batch."""
        self.types[name] = helper.np_dtype_to_tensor_dtype(values.dtype)
        np.save(self._file(batch, name), values, allow_pickle=False)

    def read(self, batch: int, name: str) -> NDArray[Any]:
        """Return values of a batch."""
        found: NDArray[Any] = np.load(self._file(batch, name))
        return found

    def keep_only(self, names: Collection[str]) -> None:
        """Remove values that nobody will read."""
        for name in self._numbers.keys() - set(names):
            for file in self.folder.glob(f"{self._numbers.pop(name)}-*.npy"):
                file.unlink()

    def _file(self, batch: int, name: str) -> Path:
        return self.folder / f"{self._numbers.setdefault(name, next(self._free))}-{batch}.npy"


class _Session:
    """A segment that is loaded, and gives the ranges of `measured` besides what later ones read."""

    def __init__(
        self, model: ModelProto, segment: Segment, measured: Collection[str], types: dict[str, int], folder: Path
    ) -> None:
        self._gives, self._measured = segment.gives, sorted(measured)
        prefix = free_prefix(model.graph)
        self._ends = [f"{prefix}{place}-{end}" for place in range(len(self._measured)) for end in _REDUCTIONS]
        made = _model_of(model, segment, types, [*self._gives, *self._ends])
        made.graph.node.extend(_reductions(self._measured, self._ends))
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry(_FOLDER, str(folder))
        try:
            self._session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise _cannot_run(error) from error

    def run(self, given: Arrays) -> tuple[dict[str, NDArray[Any]], dict[str, Range]]:
        """Return the values that later segments read, and the ranges. Raises as ranges_of."""
        try:
            found = self._session.run([*self._gives, *self._ends], dict(given))
        except Exception as error:
            raise _cannot_run(error) from error
        values, ends = found[: len(self._gives)], [float(end) for end in found[len(self._gives) :]]
        ranges = {}
        for name, (low, high, total) in zip(self._measured, zip(*[iter(ends)] * 3, strict=True), strict=True):
            if not np.isfinite(total):  # a minimum passes over NaN
                raise InvalidData(f"{name} is no number (NaN or infinite) for the calibration data; look at its values")
            ranges[name] = Range(low, high)
        return dict(zip(self._gives, values, strict=True)), ranges


def _model_of(model: ModelProto, segment: Segment, types: dict[str, int], outputs: Sequence[str]) -> ModelProto:
    """Return a segment as a model of its own, whose constants lie where those of the whole model do."""
    read = _read_by(segment.nodes)
    made = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    made.graph.name = "segment"
    made.graph.node.extend(segment.nodes)
    made.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in read)
    made.graph.sparse_initializer.extend(item for item in model.graph.sparse_initializer if item.values.name in read)
    made.graph.input.extend(helper.make_tensor_value_info(name, types[name], None) for name in segment.takes)
    made.graph.output.extend(ValueInfoProto(name=name) for name in outputs)
    return made


def _reductions(measured: Sequence[str], ends: Sequence[str]) -> Iterator[NodeProto]:
    pairs = itertools.product(measured, _REDUCTIONS)
    for (name, reduction), end in zip(pairs, ends, strict=True):
        yield helper.make_node(reduction, [name], [end], keepdims=0)


def _cannot_run(error: BaseException) -> PassFailed:
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
    return PassFailed(
        f"the graph cannot be run layer by layer ({said}); calibrate with mode: dynamic, "
        "or set spec.optimization.resources.limits.memory so that the model can be held"
    )
