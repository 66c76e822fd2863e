"""Bursts of load: wrk over REST, h2load over gRPC; what the server did, and what that cost it."""

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from peer_servers import FOLDER, Server

_STREAMS = 16  # at once on a connection of gRPC
_INFER = "/inference.GRPCInferenceService/ModelInfer"


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
    is_grpc: bool = False


def burst(server: Server, body: Body, at_once: int, seconds: int, is_tls: bool = False) -> Burst:
    """Ask a server for some seconds, with so many requests at once. Raises RuntimeError where it fails."""
    before = server.seconds()
    if body.is_grpc:
        count, rate, middle, late = _grpc(server, body, at_once, seconds)
    else:
        count, rate, middle, late = _rest(server, body, at_once, seconds, "https" if is_tls else "http")
    return Burst(rate, middle, late, (server.seconds() - before) / count * 1e6)


def _rest(server: Server, body: Body, connections: int, seconds: int, scheme: str) -> tuple[float, float, float, float]:
    length = {} if body.header_length is None else {"HEADER_LENGTH": str(body.header_length)}
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "10s"]
    command += ["-s", str(FOLDER / "post.lua"), f"{scheme}://127.0.0.1:{server.port}{server.kind.path}"]
    said = _said(server, command, {"BODY": str(body.file), **length})
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"{server.kind.shown} failed under load:\n{said}")
    times = dict(re.findall(r"^\s+(50|99)%\s+(\S+)", said, re.M))
    count, rate = _number(r"(\d+) requests in", said), _number(r"Requests/sec:\s+([\d.]+)", said)
    return count, rate, _milliseconds(times["50"]), _milliseconds(times["99"])


def _grpc(server: Server, body: Body, at_once: int, seconds: int) -> tuple[float, float, float, float]:
    connections = max(1, at_once // _STREAMS)
    port = server.port + (server.kind.grpc_port or 0)
    with tempfile.NamedTemporaryFile() as log:
        command = ["h2load", "-D", str(seconds), "-c", str(connections), "-m", str(at_once // connections), "-t", "1"]
        command += ["-d", str(body.file), "-H", "content-type: application/grpc", "-H", "te: trailers"]
        said = _said(server, [*command, f"--log-file={log.name}", f"http://127.0.0.1:{port}{_INFER}"], {})
        lines = [line.split() for line in log.read().decode().splitlines()]
    if not lines or any(status != "200" for _, status, _ in lines):
        raise RuntimeError(f"{server.kind.shown} failed under load:\n{said}")
    times = sorted(int(microseconds) for *_, microseconds in lines)
    late = times[int(len(times) * 0.99)]
    return len(times), len(times) / seconds, times[len(times) // 2] / 1e3, late / 1e3


def _said(server: Server, command: list[str], variables: dict[str, str]) -> str:
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{server.kind.shown}: {command[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"no {pattern} in:\n{text}")
    return float(found[1])


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}[unit]
