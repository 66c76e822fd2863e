"""Requests that are lost when a server is told to end, with 16 kept connections that go on asking.

The caller behaves as HTTP/1.1 asks: it leaves a connection whose answer says so, and does not send again what may have
been done. `ENDINGS=small` is a run of a minute, which leaves the page as it is.
"""

import asyncio
import os
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import serving_models
from figures import Table
from peer_servers import OURS, PEERS, Kind, Server
from serving import bodies

from asking import Lost, connect, post

_CONNECTIONS: Final = 16
_SIZES: Final = {"full": (50, 5), "small": (3, 1)}  # runs of ours, and of each peer
_AFTER_SECONDS: Final = 8.0  # how long callers go on after the signal, if the server lets them


@dataclass
class _Seen:
    answered: int = 0
    asked_to_leave: int = 0
    lost: int = 0
    refused: int = 0
    has_ended: bool = False


def measure() -> Table:
    """End each server under load, again and again."""
    chosen = os.environ.get("ENDINGS", "full")
    ours, peers = _SIZES[chosen]
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = serving_models.write("small", Path(place) / "model")
        body = {name: item.file.read_bytes() for name, item in bodies("small", Path(place)).items()}
        for kind in (OURS, *(kind for kind in PEERS if "," not in kind.shown)):
            runs = ours if kind is OURS else peers
            seen = [_end(kind, folder, body[kind.body], Path(place) / "log", number) for number in range(runs)]
            rows.append(
                (
                    kind.shown,
                    str(runs),
                    str(sum(item.lost for item in seen)),
                    str(sum(item.lost > 0 for item in seen)),
                    str(sum(item.refused for item in seen)),
                    str(sum(item.asked_to_leave for item in seen)),
                    str(sum(item.has_ended for item in seen)),
                    str(sum(item.answered for item in seen)),
                )
            )
            print(" | ".join(rows[-1]), flush=True)
    how = (
        f"{_CONNECTIONS} kept connections ask a small model without a pause; SIGTERM comes after a random time. Lost: "
        "a request was sent, and the connection ended without an answer. Refused: an answer that is no 200. Asked to "
        "leave: connections that were told to end with an answer. Ended: runs in which no process of the server was "
        f"left {_AFTER_SECONDS:.0f} s after the signal."
    )
    head = ("server", "runs", "requests lost", "runs with a loss", "refused", "asked to leave", "ended", "answered")
    return Table(how, head, tuple(rows), kept=chosen == "full")


def _end(kind: Kind, folder: Path, body: bytes, log: Path, number: int) -> _Seen:
    server = Server(kind, folder, log)
    try:
        server.wait_for(body)
        return asyncio.run(_ask(server, body, random.Random(number).uniform(0.2, 0.7)))
    finally:
        server.stop()


async def _ask(server: Server, body: bytes, seconds: float) -> _Seen:
    seen = _Seen()
    callers = [asyncio.create_task(_call(server, body, seen)) for _ in range(_CONNECTIONS)]
    await asyncio.sleep(seconds)
    server.terminate()
    until = time.monotonic() + _AFTER_SECONDS
    while time.monotonic() < until and not (all(caller.done() for caller in callers) and server.has_ended()):
        await asyncio.sleep(0.1)
    seen.has_ended = server.has_ended()
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    return seen


async def _call(server: Server, body: bytes, seen: _Seen) -> None:
    connection, request = await connect(server.port), post(server.kind.path, body)
    while True:
        try:
            answer = await connection.ask(request)
        except Lost:
            seen.lost += 1
            return
        seen.answered += 1
        seen.refused += answer.status != 200
        if answer.closes:
            seen.asked_to_leave += 1
            return
