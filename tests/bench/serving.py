"""Requests a second over REST: ours beside other Python servers, and beside a bare onnxruntime.

For each model all servers are up, and bursts of wrk go to one after the other, in rounds. The load generator shares the
two cores with the server, so that figures per second of the server's processor time say more than those per second.
`SERVING=small` is a run of minutes, which leaves the page as it is.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime as ort
import serving_models
from figures import Table, ratios, spread
from peer_servers import FOLDER, OURS, PEERS, Kind, Server

from trimtab_cluster import packages

_HEADER_LENGTH = "Inference-Header-Content-Length"
_HOW = (
    "Bursts of {seconds} s of wrk, one thread, to each server in turns, {rounds} times, all servers up. Median "
    "(smallest to largest). Ratios are ours by the server's, of each round: what is above 1 speaks for ours. µs are of "
    "the server's processor time for a request. Every session has one thread; each server has the settings that were "
    "best for it, and its log of requests off. `onnxruntime` is a loop in one thread without a server: rows one by "
    "one, and in the batch that gives most. {versions}"
)


@dataclass(frozen=True, slots=True)
class Work:
    """A model and the number of connections that ask it."""

    shown: str
    model: str
    connections: int


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured; `peers` of None are all."""

    seconds: int
    rounds: int
    works: tuple[Work, ...]
    peers: int | None = None


_WORKS = (
    Work("small MLP", "small", 64),
    Work("small MLP", "small", 1),
    Work("wide MLP", "wide", 64),
    Work("convolution", "convolution", 16),
)
SIZES = {"full": Size(3, 5, _WORKS), "small": Size(2, 4, _WORKS[:1], peers=1), "ours": Size(2, 3, _WORKS, peers=0)}


@dataclass(frozen=True, slots=True)
class Burst:
    """What a server did: answers a second, milliseconds at the middle and 99th percentile, µs of its processors."""

    rate: float
    middle: float
    late: float
    cost: float


@dataclass(frozen=True, slots=True)
class Body:
    """What is asked: a file, and the length of its JSON part where raw tensors follow."""

    file: Path
    header_length: int | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that go with it."""
        return {} if self.header_length is None else {_HEADER_LENGTH: str(self.header_length)}


def measure() -> Table:
    """Measure every work."""
    chosen = os.environ.get("SERVING", "full")
    size = SIZES[chosen]
    packages.install_missing({"wrk": "wrk"})
    rows: list[tuple[str, ...]] = []
    for work in size.works:
        rows += _rows(work, size)
    versions = f"onnxruntime {ort.__version__}, Python {sys.version.split()[0]}."
    how = _HOW.format(seconds=size.seconds, rounds=size.rounds, versions=versions)
    head = (
        "work",
        "server",
        "requests/s",
        "ours by it",
        "µs/request",
        "ours by it, per core",
        "p50 ms",
        "p99 ms",
        "MiB",
    )
    return Table(how, head, tuple(rows), kept=chosen == "full")


def _rows(work: Work, size: Size) -> Iterator[tuple[str, ...]]:
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = serving_models.write(work.model, place / "model")
        bodies = _bodies(work.model, place)
        asked = list(_started(stack, work, size, folder, place, bodies))
        found: dict[str, list[Burst]] = {name: [] for name, *_ in asked}
        raw: list[dict[str, float]] = []
        for _, server, body in asked:
            _burst(server, body, work.connections, 1)
        for _ in range(size.rounds):
            raw.append(_bare(folder, work.model))
            for name, server, body in asked:
                found[name].append(_burst(server, body, work.connections, size.seconds))
        memory = {name: server.memory() for name, server, _ in asked}
    label = f"{work.shown}, {work.connections} connection{'s' if work.connections > 1 else ''}"
    for name, bursts in found.items():
        ours = found[f"{OURS.shown}, binary" if name.endswith("binary") else OURS.shown]
        yield (
            label,
            name,
            spread([burst.rate for burst in bursts], digits=0),
            "" if bursts is ours else spread(ratios([b.rate for b in ours], [b.rate for b in bursts]), digits=1),
            spread([burst.cost for burst in bursts], digits=0),
            "" if bursts is ours else spread(ratios([b.cost for b in bursts], [b.cost for b in ours]), digits=1),
            f"{median(burst.middle for burst in bursts):.2f}",
            f"{median(burst.late for burst in bursts):.2f}",
            f"{memory[name]:.0f}",
        )
    best = found[OURS.shown]
    for kind in raw[0]:
        rates = [item[kind] for item in raw]
        shown = spread(ratios([burst.rate for burst in best], rates), digits=2)
        yield (label, f"onnxruntime, {kind}", spread(rates, digits=0), shown, "", "", "", "", "")


def _started(
    stack: ExitStack, work: Work, size: Size, folder: Path, place: Path, bodies: Mapping[str, Body]
) -> Iterator[tuple[str, Server, Body]]:
    """Start the servers, see that each answers what onnxruntime does, and yield them with what they are asked."""
    for number, kind in enumerate((OURS, *PEERS[: size.peers])):
        server = Server(kind, folder, place / f"{number}.log")
        stack.callback(server.stop)
        body = bodies[kind.body]
        server.wait_for(body.file.read_bytes())
        _check(kind, json.loads(server.ask(body.file.read_bytes())), folder, work.model)
        yield kind.shown, server, body
        if kind.takes_binary:
            yield f"{kind.shown}, binary", server, bodies["binary"]


def _bodies(model: str, place: Path) -> dict[str, Body]:
    row = serving_models.row(model)
    tensor: dict[str, Any] = {"name": "x", "shape": list(row.shape), "datatype": "FP32"}
    listed = {**tensor, "data": row.ravel().tolist()}
    raw = {**tensor, "parameters": {"binary_data_size": row.nbytes}}
    head = json.dumps({"inputs": [raw], "parameters": {"binary_data_output": True}}).encode()
    contents = {
        "json": json.dumps({"inputs": [listed]}).encode(),
        "named": json.dumps({"x": row.tolist()}).encode(),
        "binary": head + row.tobytes(),
    }
    for name, content in contents.items():
        (place / name).write_bytes(content)
    lengths = {"binary": len(head)}
    return {name: Body(place / name, lengths.get(name)) for name in contents}


def _check(kind: Kind, answer: Any, folder: Path, model: str) -> None:
    given = answer if kind.body == "named" else answer["outputs"][0]["data"]
    expected = _session(folder).run(["y"], {"x": serving_models.row(model)})[0]
    if not np.allclose(np.asarray(given, np.float32).ravel(), expected.ravel(), atol=1e-5):
        raise RuntimeError(f"{kind.shown} answers something else: {given}")


def _session(folder: Path) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])


def _bare(folder: Path, model: str) -> dict[str, float]:
    """Return the rows a second of a loop around a session, one by one and in the best batch."""
    session, row = _session(folder), serving_models.row(model)
    rates = {rows: rows / _fastest(session, np.repeat(row, rows, axis=0)) for rows in (1, 2, 4, 8, 16, 32, 64)}
    return {"one by one": rates[1], "in batches": max(rates.values())}


def _fastest(session: Any, rows: Any) -> float:
    best, until = float("inf"), time.perf_counter() + 0.2
    while time.perf_counter() < until:
        started = time.perf_counter()
        session.run(["y"], {"x": rows})
        best = min(best, time.perf_counter() - started)
    return best


def _burst(server: Server, body: Body, connections: int, seconds: int) -> Burst:
    length = {} if body.header_length is None else {"HEADER_LENGTH": str(body.header_length)}
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "10s"]
    command += ["-s", str(FOLDER / "post.lua"), f"http://127.0.0.1:{server.port}{server.kind.path}"]
    before = server.seconds()
    done = subprocess.run(
        command, env={**os.environ, "BODY": str(body.file), **length}, capture_output=True, text=True, check=True
    )
    spent = server.seconds() - before
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise RuntimeError(f"{server.kind.shown} failed under load:\n{done.stdout}")
    times = dict(re.findall(r"^\s+(50|99)%\s+(\S+)", done.stdout, re.M))
    (count, rate) = (
        float(re.search(pattern, done.stdout)[1])  # type: ignore[index]
        for pattern in (r"(\d+) requests in", r"Requests/sec:\s+([\d.]+)")
    )
    return Burst(rate, _milliseconds(times["50"]), _milliseconds(times["99"]), spent / count * 1e6)


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}[unit]
