"""Carry a graph over: pieces of work on a few threads, tensors copied as they are, the list of tensors renewed."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from onnx import GraphProto, TensorProto

from trimtab_optimizer.streaming.output import Output, Sink
from trimtab_optimizer.streaming.weights import Weight, stored_bytes

Work = Callable[[], None]

_COPY: Final = 8 << 20
_MOST_THREADS: Final = 8  # each holds some tens of MB


def thread_count() -> int:
    """Return how many threads have a core."""
    return min(len(os.sched_getaffinity(0)), _MOST_THREADS)


def carry_out(work: list[Work], threads: int | None = None) -> None:
    """Do all pieces of work, in any order; the first error ends it and is raised."""
    with ThreadPoolExecutor(threads or thread_count()) as pool:
        waiting = [pool.submit(piece) for piece in work]
        try:
            for future in waiting:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def copies(graph: GraphProto, folder: Path, output: Output, changed: set[str]) -> list[Work]:
    """Return the work that copies every other tensor that lies outside the graph."""
    work: list[Work] = []
    for tensor in graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL and tensor.name not in changed:
            stored = stored_bytes(tensor, folder)
            place = output.reserve(tensor.name, tensor.data_type, tuple(tensor.dims), stored.columns)
            work += copy_bytes(stored, output, place.offset)
    return work


def copy_bytes(stored: Weight, sink: Sink, offset: int) -> list[Work]:
    """Return the work that copies bytes as they are to a place in a file."""
    return [partial(_copy, stored, sink, offset, start) for start in range(0, stored.columns, _COPY)]


def _copy(stored: Weight, sink: Sink, offset: int, start: int) -> None:
    sink.put(offset + start, stored.read_raw(start, min(_COPY, stored.columns - start)))


def replace_tensors(graph: GraphProto, output: Output, changed: set[str]) -> None:
    """Put the new tensors into a graph, and take out those that were changed into them."""
    made = output.tensors()
    names = changed | {tensor.name for tensor in made}
    kept = [tensor for tensor in graph.initializer if tensor.name not in names]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *made])
    inputs = [value for value in graph.input if value.name not in changed]
    del graph.input[:]
    graph.input.extend(inputs)
