"""Half an hour of callers who come, ask by every protocol, leave early and ask wrongly: nothing may grow.

SOAK_SECONDS shortens it; the page is left as it is then.
"""

import asyncio
import json
import os
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
import numpy as np
import serving_models
from figures import Table
from peer_servers import OURS, Server

from trimtab_runtime.protocol import oip_pb2, oip_pb2_grpc

_WHOLE: Final = 1800
_SECONDS: Final = int(os.environ.get("SOAK_SECONDS", _WHOLE))
_SETTLING: Final = 1 / 15  # of the time: caches fill, the allocator finds its size
_LOOKS: Final = 60
_PAUSE: Final = 0.05  # of a caller between two requests
_CALLERS: Final = 8  # of each kind


@dataclass
class _Seen:
    """What callers saw."""

    answered: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def measure() -> Table:
    """Ask for as long, and look at the process now and then."""
    with tempfile.TemporaryDirectory() as place:
        folder = serving_models.write("small", Path(place) / "model")
        server = Server(OURS, folder, Path(place) / "log")
        try:
            server.wait_for(_json())
            seen, looks = asyncio.run(_ask(server))
        finally:
            server.stop()
    if seen.failures:
        raise RuntimeError(f"{len(seen.failures)} requests failed: {seen.failures[:3]}")
    settled = looks[int(len(looks) * _SETTLING) :]
    half = len(settled) // 2
    rows = [("requests answered, by protocol", ", ".join(f"{kind} {n}" for kind, n in seen.answered.items()), "")]
    for name, unit in (("memory", "MiB"), ("files and sockets", ""), ("threads", "")):
        early, late = ([getattr(look, _FIELDS[name]) for look in part] for part in (settled[:half], settled[half:]))
        rows.append((name, f"{np.mean(early):.1f} {unit}".strip(), f"{np.mean(late):.1f} {unit}".strip()))
    how = (
        f"{_SECONDS // 60} minutes, {_CALLERS} callers each of JSON, raw tensors, rows for a person, and gRPC; some "
        "leave before their answer, some ask wrongly, and connections are made anew. Means of the first and the "
        "second half, after a fifteenth of the time for caches to fill."
    )
    return Table(how, ("what", "first half", "second half"), tuple(rows), kept=_SECONDS == _WHOLE)


_FIELDS: Final = {"memory": "mib", "files and sockets": "files", "threads": "threads"}


@dataclass(frozen=True, slots=True)
class _Look:
    mib: float
    files: int
    threads: int


async def _ask(server: Server) -> tuple[_Seen, list[_Look]]:
    seen, until = _Seen(), time.monotonic() + _SECONDS
    kinds = {"JSON": _infer, "raw": _raw, "rows": _rows}
    callers = [_rest(server, seen, until, name, ask) for name, ask in kinds.items() for _ in range(_CALLERS)]
    callers += [_grpc(server, seen, until) for _ in range(_CALLERS)]
    asking = asyncio.gather(*callers)
    looks = []
    while time.monotonic() < until:
        await asyncio.sleep(_SECONDS / _LOOKS)
        looks.append(_Look(server.memory(), server.files(), server.threads()))
    await asking
    return seen, looks


async def _rest(server: Server, seen: _Seen, until: float, name: str, ask: Any) -> None:
    chance = random.Random(name)
    while time.monotonic() < until:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=30) as client:
            for _ in range(chance.randint(1, 400)):  # then a new connection
                if time.monotonic() > until:
                    return
                await asyncio.sleep(_PAUSE)
                expected, answer = await ask(client, chance.random() < 0.05)
                if chance.random() < 0.02:
                    await _leave_early(server)
                seen.answered[name] += 1
                if answer.status_code != expected:
                    seen.failures.append(f"{name}: {answer.status_code} {answer.text[:200]}")


async def _infer(client: httpx.AsyncClient, wrong: bool) -> tuple[int, httpx.Response]:
    return (400 if wrong else 200), await client.post(OURS.path, content=b"{" if wrong else _json())


async def _raw(client: httpx.AsyncClient, wrong: bool) -> tuple[int, httpx.Response]:
    row = serving_models.row("small")
    tensor = {"name": "x", "shape": list(row.shape), "datatype": "FP32", "parameters": {"binary_data_size": row.nbytes}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    body = head + row.tobytes()[wrong:]
    return (400 if wrong else 200), await client.post(OURS.path, content=body, headers=headers)


async def _rows(client: httpx.AsyncClient, wrong: bool) -> tuple[int, httpx.Response]:
    rows = serving_models.row("small").tolist()
    return (400 if wrong else 200), await client.post("/predict", json=rows[0][1:] if wrong else rows)


async def _leave_early(server: Server) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    body = _json()
    writer.write(b"POST %b HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n\r\n" % (OURS.path.encode(), len(body)))
    writer.write(body)
    writer.close()


async def _grpc(server: Server, seen: _Seen, until: float) -> None:
    make: Any = oip_pb2_grpc.GRPCInferenceServiceStub
    row = serving_models.row("small")
    request = oip_pb2.ModelInferRequest(model_name="model", raw_input_contents=[row.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=row.shape)
    while time.monotonic() < until:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port + 1}") as channel:
            infer = make(channel).ModelInfer
            for _ in range(1000):
                if time.monotonic() > until:
                    return
                await asyncio.sleep(_PAUSE)
                try:
                    await infer(request, timeout=30)
                except grpc.aio.AioRpcError as error:
                    seen.failures.append(f"gRPC: {error.code()} {error.details()}")
                seen.answered["gRPC"] += 1


def _json() -> bytes:
    row = serving_models.row("small")
    tensor = {"name": "x", "shape": list(row.shape), "datatype": "FP32", "data": row.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode()
