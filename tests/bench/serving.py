"""Requests a second: ours beside other Python servers, and beside a bare onnxruntime.

For each model all servers are up, and bursts of load go to one after the other, in rounds. The load generator shares
the two cores with the server, so that ratios per core say more than those of requests a second.
`SERVING=small` is a run of minutes, which leaves the page as it is.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort
import serving_models
from bursts import Body, Burst, burst
from figures import Table, ratios, spread
from peer_servers import OURS, OURS_BY_GRPCIO, PEERS, Kind, Server

from trimtab_cluster import packages
from trimtab_runtime.protocol import oip_pb2, oip_pb2_grpc

_HOW = (
    "Bursts of {seconds} s of wrk (gRPC: h2load), one thread, to each server in turns, {rounds} times, all servers up. "
    "Median (smallest to largest). Ratios are ours by the server's, of each round: what is above 1 speaks for ours; "
    "per core they are of the server's processor time for a request (µs). Every session has one thread; each server "
    "has the settings that were best for it, and its log of requests off. `onnxruntime` is a loop in one thread "
    "without a server: rows one by one, and in the batch that gives most. {versions}"
)


@dataclass(frozen=True, slots=True)
class Work:
    """A model and the number of requests that ask it at once: one on each connection, but 16 of gRPC."""

    shown: str
    model: str
    at_once: int
    is_grpc: bool = False


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured; `peers` of None are all."""

    seconds: int
    rounds: int
    works: tuple[Work, ...]
    peers: int | None = None


_WORKS = (
    Work("small MLP, gRPC", "small", 64, is_grpc=True),
    Work("small MLP, gRPC", "small", 1, is_grpc=True),
    Work("small MLP", "small", 64),
    Work("small MLP", "small", 1),
    Work("wide MLP", "wide", 64),
    Work("convolution", "convolution", 16),
)
SIZES = {
    "full": Size(2, 3, _WORKS),
    "small": Size(2, 4, (_WORKS[0], _WORKS[2]), peers=1),
    "ours": Size(2, 3, _WORKS, peers=0),
}


def measure() -> Table:
    """Measure every work."""
    chosen = os.environ.get("SERVING", "full")
    size = SIZES[chosen]
    packages.install_missing({"wrk": "wrk", "nghttp2-client": "h2load"})
    rows: list[tuple[str, ...]] = []
    for work in size.works:
        rows += _rows(work, size)
        print(*(" | ".join(row) for row in rows[-20:]), sep="\n", flush=True)
    versions = f"onnxruntime {ort.__version__}, Python {sys.version.split()[0]}."
    how = _HOW.format(seconds=size.seconds, rounds=size.rounds, versions=versions)
    return Table(how, _HEAD, tuple(rows), kept=chosen == "full")


_HEAD = ("work", "server", "requests/s", "ours by it", "ours in binary by it", "µs/request", "p50 ms", "p99 ms", "MiB")


def _rows(work: Work, size: Size) -> Iterator[tuple[str, ...]]:
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = serving_models.write(work.model, place / "model")
        asked = list(_started(stack, work, size, folder, place))
        found: dict[str, list[Burst]] = {name: [] for name, *_ in asked}
        raw: list[dict[str, float]] = []
        for _, server, body in asked:
            burst(server, body, work.at_once, 1)
        for _ in range(size.rounds):
            raw.append(_bare(folder, work.model))
            for name, server, body in asked:
                found[name].append(burst(server, body, work.at_once, size.seconds))
        memory = {name: server.memory() for name, server, _ in asked}
    label = f"{work.shown}, {work.at_once} at once"
    ours, binary = found[OURS.shown], found.get(f"{OURS.shown}, binary")
    for name, bursts in found.items():
        yield (
            label,
            name,
            spread([item.rate for item in bursts], digits=0),
            _ratio(ours, bursts),
            _ratio(binary, bursts) if binary else "",
            spread([item.cost for item in bursts], digits=0),
            f"{median(item.middle for item in bursts):.2f}",
            f"{median(item.late for item in bursts):.2f}",
            f"{memory[name]:.0f}",
        )
    for kind in raw[0]:
        rates = [item[kind] for item in raw]
        by = [spread(ratios([item.rate for item in best], rates), digits=2) if best else "" for best in (ours, binary)]
        yield (label, f"onnxruntime, {kind}", spread(rates, digits=0), *by, "", "", "", "")


def _ratio(ours: list[Burst], other: list[Burst]) -> str:
    if ours is other:
        return ""
    rates = ratios([item.rate for item in ours], [item.rate for item in other])
    costs = ratios([item.cost for item in other], [item.cost for item in ours])
    return f"{spread(rates, digits=1)}; per core {median(costs):.1f}"


def _started(stack: ExitStack, work: Work, size: Size, folder: Path, place: Path) -> Iterator[tuple[str, Server, Body]]:
    """Start the servers, see that each answers what onnxruntime does, and yield them with what they are asked."""
    asked = bodies(work.model, place)
    kinds = [OURS, *PEERS[: size.peers]]
    if work.is_grpc:
        kinds = [kind for kind in (*kinds, OURS_BY_GRPCIO) if kind.grpc_port]
    for number, kind in enumerate(kinds):
        server = Server(kind, folder, place / f"{number}.log")
        stack.callback(server.stop)
        body = asked[kind.body]
        server.wait_for(body.file.read_bytes())
        if work.is_grpc:
            _check(kind, _asked_by_grpc(server, work.model), folder, work.model)
            yield kind.shown, server, asked["grpc"]
            continue
        answer = json.loads(server.ask(body.file.read_bytes()))
        _check(kind, answer if kind.body == "named" else answer["outputs"][0]["data"], folder, work.model)
        yield kind.shown, server, body
        if kind.takes_binary:
            yield f"{kind.shown}, binary", server, asked["binary"]


def _asked_by_grpc(server: Server, model: str) -> Any:
    """Return what a server answers to the common library."""
    with grpc.insecure_channel(f"127.0.0.1:{server.port + (server.kind.grpc_port or 0)}") as channel:
        make: Any = oip_pb2_grpc.GRPCInferenceServiceStub
        answer = make(channel).ModelInfer(_grpc_request(model))
    if answer.raw_output_contents:
        return np.frombuffer(answer.raw_output_contents[0], np.float32)
    return answer.outputs[0].contents.fp32_contents


def _grpc_request(model: str) -> Any:
    row = serving_models.row(model)
    request = oip_pb2.ModelInferRequest(model_name="model", raw_input_contents=[row.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=row.shape)
    return request


def bodies(model: str, place: Path) -> dict[str, Body]:
    """Write a request for one row in each form, and return them."""
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
    message = _grpc_request(model).SerializeToString()
    contents["grpc"] = b"\0" + len(message).to_bytes(4, "big") + message
    for name, content in contents.items():
        (place / name).write_bytes(content)
    lengths = {"binary": len(head)}
    return {name: Body(place / name, lengths.get(name), is_grpc=name == "grpc") for name in contents}


def _check(kind: Kind, given: Any, folder: Path, model: str) -> None:
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
