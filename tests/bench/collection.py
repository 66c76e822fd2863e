"""Several models in one server, beside a server for each: what a model costs, and what one's callers feel of another's.

`COLLECTION=small` is a run of a minute, which leaves the page as it is.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

import serving_models
import yaml
from bursts import Body, Burst, burst
from figures import Table, ratios, spread
from peer_servers import INFER, OURS, Server
from serving import bodies

from trimtab_cluster import packages

_SIZES: Final = {"full": (3, 5), "small": (1, 1)}  # seconds of a burst, rounds
_MODELS: Final = 10
_FLOOD: Final = 64  # connections


@dataclass(frozen=True, slots=True)
class Case:
    """Who asks the small model, and who asks the wide one without a pause meanwhile."""

    shown: str
    small: Server
    at_once: int
    flooded: Server | None = None


def measure() -> Table:
    """Measure all cases in turns, all servers up."""
    chosen = os.environ.get("COLLECTION", "full")
    seconds, rounds = _SIZES[chosen]
    packages.install_missing({"wrk": "wrk"})
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folders = {name: serving_models.write(name, place / name) for name in ("small", "wide")}
        (place / "of-wide").mkdir()
        asked, wide = bodies("small", place)["json"], bodies("wide", place / "of-wide")["json"]
        alone = _started(stack, folders["small"], place, INFER, asked)
        apart = _started(stack, folders["wide"], place, INFER, wide)
        many = _started(stack, _collection(place / "many", folders, _MODELS), place, INFER, asked)
        two = _started(stack, _collection(place / "two", folders, 1), place, INFER, asked)
        cases = [
            Case("64 callers, a server of its own", alone, 64),
            Case(f"64 callers, one of {_MODELS} models of a server", many, 64),
            Case("a lone caller, a server of its own", alone, 1),
            Case("the same, while 64 callers ask the server of a wide model", alone, 1, apart),
            Case("the same, while they ask a wide model of the same server", two, 1, _of(two, "/v2/models/wide/infer")),
        ]
        found: dict[str, list[tuple[Burst, float]]] = {case.shown: [] for case in cases}
        for count in range(rounds + 1):
            for case in cases:
                done = _measured(case, asked, wide, seconds)
                if count:  # the first one warms up
                    found[case.shown].append(done)
        memory = {"alone": alone.memory(), "many": many.memory()}
    added = (memory["many"] - memory["alone"]) / (_MODELS - 1)
    how = (
        f"A small MLP in JSON, {rounds} bursts of {seconds} s of wrk in turns, on two cores which wrk shares. Median "
        f"(smallest to largest). Memory: {memory['alone']:.0f} MiB of the server with one model, "
        f"{memory['many']:.0f} of the one with {_MODELS}, so {added:.1f} for each further small model."
    )
    head = ("small model", "requests/s", "p50 ms", "p99 ms", "wide model, requests/s")
    return Table(how, head, tuple(_rows(found)), kept=chosen == "full")


def _measured(case: Case, asked: Body, wide: Body, seconds: int) -> tuple[Burst, float]:
    if case.flooded is None:
        return burst(case.small, asked, case.at_once, seconds), 0.0
    with ThreadPoolExecutor(1) as pool:
        flood = pool.submit(burst, case.flooded, wide, _FLOOD, seconds)
        return burst(case.small, asked, case.at_once, seconds), flood.result().rate


def _rows(found: dict[str, list[tuple[Burst, float]]]) -> Iterator[tuple[str, ...]]:
    first = [done.rate for done, _ in next(iter(found.values()))]
    for name, measured in found.items():
        rates, floods = [done.rate for done, _ in measured], [rate for _, rate in measured]
        by_first = f", {spread(ratios(rates, first))} of the first" if name.startswith("64") and rates != first else ""
        yield (
            name,
            spread(rates, digits=0) + by_first,
            spread([done.middle for done, _ in measured]),
            f"{median(done.late for done, _ in measured):.2f}",
            spread(floods, digits=0) if any(floods) else "",
        )


def _collection(folder: Path, folders: dict[str, Path], small: int) -> Path:
    """Write a collection with so many small models, of which the first is asked, and a wide one if it is one."""
    names = ["model", *(f"other{number}" for number in range(1, small))]
    listed = {name: folders["small"] for name in names} | ({"wide": folders["wide"]} if small == 1 else {})
    for name, package in listed.items():
        shutil.copytree(package, folder / name)
    models = [{"name": name, "folder": name} for name in listed]
    (folder / "model.yaml").write_text(yaml.safe_dump({"name": "several", "format": "collection", "models": models}))
    return folder


def _started(stack: ExitStack, folder: Path, place: Path, path: str, body: Body) -> Server:
    server = Server(replace(OURS, path=path), folder, place / f"{folder.name}.log")
    stack.callback(server.stop)
    server.wait_for(body.file.read_bytes())
    return server


def _of(server: Server, path: str) -> Server:
    """Return a server as callers of another path see it."""
    seen = copy(server)
    seen.kind = replace(server.kind, path=path)
    return seen
