"""From the start of a process to its first answer, and the memory it holds then, by the size of the model.

`STARTS=small` is a run of a minute, which leaves the page as it is.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

import serving_models
from figures import Table, ratios, spread
from peer_servers import OURS, PEERS, Kind, Server
from serving import bodies

_SIZES: Final = {"full": 5, "small": 1}  # rounds
_MODELS: Final = ("small", "wide", "deep")
_BARE: Final = "onnxruntime alone"
_LOOP: Final = """
import sys, onnxruntime, numpy
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
session.run(["y"], {"x": numpy.zeros((1, int(sys.argv[2])), numpy.float32)})
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS")))
"""


def measure() -> Table:
    """Start each server in turns, with each model."""
    chosen = os.environ.get("STARTS", "full")
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as place:
        for model in _MODELS:
            kinds = [OURS, *(kind for kind in PEERS if "," not in kind.shown)] if model == "small" else [OURS]
            rows += _rows(model, kinds, Path(place) / model, _SIZES[chosen])
    how = (
        f"Seconds from the start of the process to its first answer, {_SIZES[chosen]} starts of each in turns; our "
        "server has tried the model by then. Median (smallest to largest). onnxruntime alone is a process that loads "
        "the model and runs one row. Ratios are by that, of each round."
    )
    head = ("model", "server", "seconds", "by onnxruntime alone", "MiB", "MiB above onnxruntime alone")
    return Table(how, head, tuple(rows), kept=chosen == "full")


def _rows(model: str, kinds: list[Kind], place: Path, rounds: int) -> Iterator[tuple[str, ...]]:
    folder = serving_models.write(model, place / "model")
    body = {name: item.file.read_bytes() for name, item in bodies(model, place).items()}
    starts: dict[str, Callable[[], tuple[float, float]]] = {
        _BARE: partial(_bare, folder / "model.onnx", serving_models.SHAPES[model][0]),
        **{kind.shown: partial(_start, kind, folder, body[kind.body], place / "log") for kind in kinds},
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in starts}
    for _ in range(rounds):
        for name, start in starts.items():
            found[name].append(start())
    megabytes = (folder / "model.onnx").stat().st_size / 1e6
    bare = found[_BARE]
    for name, runs in found.items():
        seconds, memory = [item[0] for item in runs], [item[1] for item in runs]
        more = [own - other for own, (_, other) in zip(memory, bare, strict=True)]
        by = "1" if name == _BARE else spread(ratios(seconds, [item[0] for item in bare]))
        label = f"{model}, {megabytes:.1f} MB"
        yield (
            label,
            name,
            spread(seconds),
            by,
            f"{median(memory):.0f}",
            "" if name == _BARE else f"{median(more):.0f}",
        )


def _start(kind: Kind, folder: Path, body: bytes, log: Path) -> tuple[float, float]:
    began = time.perf_counter()
    server = Server(kind, folder, log)
    try:
        server.wait_for(body)
        return time.perf_counter() - began, server.memory()
    finally:
        server.stop()


def _bare(file: Path, width: int) -> tuple[float, float]:
    began = time.perf_counter()
    command = [sys.executable, "-c", _LOOP, str(file), str(width)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - began, int(done.stdout) / 1024
