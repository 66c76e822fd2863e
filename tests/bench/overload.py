"""Three times as many requests as a server can answer: how much of its capacity still reaches callers in time.

First each server is asked by as many callers as keep it busy: that is its capacity. Then requests come at three times
that rate whatever becomes of them, and what is answered within the time that a caller waits counts.
`OVERLOAD=small` is a run of a minute, which leaves the page as it is.
"""

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import serving_models
import uvloop
from figures import Table, spread
from peer_servers import OURS, PEERS, Kind, Server
from serving import bodies

from asking import Connection, Lost, connect, post

_MODEL: Final = "deep"
_TIMES: Final = 3.0
_WAITS: Final = 0.2  # seconds that a caller waits
_BUSY: Final = 64  # callers that keep a server busy
_MOST: Final = 3000  # connections
_TICK: Final = 0.005
_SIZES: Final = {"full": (3, 4.0, 8.0), "small": (1, 2.0, 4.0)}  # rounds, seconds of each part


@dataclass
class _Seen:
    """Requests by what became of them; times in seconds."""

    sent: int = 0
    refused: int = 0
    lost: int = 0
    unsent: int = 0  # no connection was free: as many wait as there may be
    times: list[float] = field(default_factory=list)

    def in_time(self) -> int:
        return sum(seconds <= _WAITS for seconds in self.times)


def measure() -> Table:
    """Measure ours and each peer, in turns."""
    chosen = os.environ.get("OVERLOAD", "full")
    rounds, busy, over = _SIZES[chosen]
    kinds = [OURS, *(kind for kind in PEERS if kind.shown in ("MLServer, batches", "KServe", "LitServe, batches"))]
    found: dict[str, list[tuple[float, _Seen]]] = {kind.shown: [] for kind in kinds}
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = serving_models.write(_MODEL, place / "model")
        asked = {name: body.file.read_bytes() for name, body in bodies(_MODEL, place).items()}
        for _ in range(rounds):
            for kind in kinds:  # one at a time: what waits in one would slow the next
                found[kind.shown].append(_try(kind, folder, asked[kind.body], place / "log", busy, over))
    how = (
        f"The server has one core, the callers have the other. Capacity: answers a second to {_BUSY} callers without "
        f"a pause. Then {_TIMES:.0f} times as many requests a second for {over:.0f} s, from callers who wait for "
        f"{_WAITS * 1000:.0f} ms; ours is told so by the parameter `timeout`. Goodput is what was answered in that "
        f"time, by capacity; {rounds} rounds, median (smallest to largest)."
    )
    head = ("server", "capacity/s", "goodput by capacity", "p99 of answers ms", "refused", "late, lost or unsent")
    return Table(how, head, tuple(_rows(found, over)), kept=chosen == "full")


def _rows(found: dict[str, list[tuple[float, _Seen]]], seconds: float) -> Iterator[tuple[str, ...]]:
    for name, runs in found.items():
        goods = [seen.in_time() / seconds / capacity for capacity, seen in runs]
        lates = [float(np.percentile(seen.times, 99)) * 1000 if seen.times else float("nan") for _, seen in runs]
        wanted = [seen.sent + seen.unsent for _, seen in runs]
        refused = median(seen.refused / all_ for (_, seen), all_ in zip(runs, wanted, strict=True))
        failed = [1 - (seen.in_time() + seen.refused) / all_ for (_, seen), all_ in zip(runs, wanted, strict=True)]
        rate = spread([capacity for capacity, _ in runs], digits=0)
        yield (name, rate, spread(goods), spread(lates, digits=0), f"{refused:.0%}", f"{median(failed):.0%}")


def _try(kind: Kind, folder: Path, body: bytes, log: Path, busy: float, over: float) -> tuple[float, _Seen]:
    first, second = sorted(os.sched_getaffinity(0))[:2]
    server = Server(kind, folder, log, {first})
    os.sched_setaffinity(0, {second})
    try:
        server.wait_for(body)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            capacity = runner.run(_capacity(server, post(kind.path, body), busy))
            seen = runner.run(_overload(server, post(kind.path, _with_timeout(kind, body)), capacity * _TIMES, over))
    finally:
        server.stop()
        os.sched_setaffinity(0, {first, second})
    print(f"{kind.shown}: {capacity:.0f}/s, {seen.in_time() / over / capacity:.2f} of it in time", flush=True)
    return capacity, seen


def _with_timeout(kind: Kind, body: bytes) -> bytes:
    if kind is not OURS:
        return body
    return json.dumps({**json.loads(body), "parameters": {"timeout": int(_WAITS * 1e6)}}).encode()


async def _capacity(server: Server, request: bytes, seconds: float) -> float:
    """Return the answers a second, after a second that is not counted."""
    answered, begin = 0, time.perf_counter() + 1
    end = begin + seconds

    async def call() -> None:
        nonlocal answered
        connection = await connect(server.port)
        while time.perf_counter() < end:
            if (await connection.ask(request)).closes:
                connection = await connect(server.port)
            answered += begin <= time.perf_counter() < end

    await asyncio.gather(*(call() for _ in range(_BUSY)))
    return answered / seconds


async def _overload(server: Server, request: bytes, rate: float, seconds: float) -> _Seen:
    seen, free = _Seen(), asyncio.LifoQueue[Connection]()
    open_count = 0
    asking: set[asyncio.Task[None]] = set()

    async def call(connection: Connection | None) -> None:
        nonlocal open_count
        began = time.perf_counter()
        try:
            connection = connection or await connect(server.port)
            answer = await asyncio.wait_for(connection.ask(request), seconds)
        except (Lost, OSError, TimeoutError):
            seen.lost += 1
            open_count -= 1
            return
        if answer.status == 200:
            seen.times.append(time.perf_counter() - began)
        else:
            seen.refused += 1
        if answer.closes:
            connection.close()
            open_count -= 1
        else:
            free.put_nowait(connection)

    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        for _ in range(int(elapsed * rate) - seen.sent - seen.unsent):
            kept = None if free.empty() else free.get_nowait()
            if kept is None and open_count >= _MOST:
                seen.unsent += 1
                continue
            open_count += kept is None
            seen.sent += 1
            task = asyncio.create_task(call(kept))
            asking.add(task)
            task.add_done_callback(asking.discard)
        await asyncio.sleep(_TICK)
    await asyncio.wait(asking, timeout=seconds)
    for task in asking:
        task.cancel()
    return seen
