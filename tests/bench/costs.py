"""What things that our server can do cost it, beside the same server without: processes, TLS, telling of calls, copies.

`COSTS=small` is a run of a minute, which leaves the page as it is.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Final

import serving_models
import trustme
from bursts import Body, Burst, burst
from figures import Table, ratios, spread
from peer_servers import OURS, Kind, Server
from serving import bodies

from trimtab_cluster import packages

_SIZES: Final = {"full": (2, 5), "small": (1, 1)}  # seconds of a burst, rounds
_PLAIN: Final = "as it is"


@dataclass(frozen=True, slots=True)
class Way:
    """A way to run our server, and how it is asked."""

    shown: str
    variables: dict[str, str] = field(default_factory=dict)
    at_once: int = 64
    is_tls: bool = False
    is_binary: bool = False
    shadow: str = "0"  # percent of requests that are copied to the server as it is


def measure() -> Table:
    """Measure all ways in turns, all servers up."""
    chosen = os.environ.get("COSTS", "full")
    seconds, rounds = _SIZES[chosen]
    packages.install_missing({"wrk": "wrk"})
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = serving_models.write("small", place / "model")
        asked = bodies("small", place)
        ways = _ways(_certificate(place))
        servers: list[tuple[Way, Server]] = []
        for way in ways:
            plain = servers[0][1].port if servers else 0
            servers.append((way, _started(stack, way, folder, place, asked["json"], plain)))
        found: dict[str, list[Burst]] = {way.shown: [] for way in ways}
        for count in range(rounds + 1):
            for way, server in servers:
                done = burst(server, asked["binary" if way.is_binary else "json"], way.at_once, seconds, way.is_tls)
                if count:  # the first one warms up
                    found[way.shown].append(done)
        memory = {way.shown: server.memory() for way, server in servers}
    how = (
        f"A small MLP in JSON, {rounds} bursts of {seconds} s of wrk to each in turns, 64 connections where nothing "
        "else is said. Median (smallest to largest). Ratios are by the server as it is, of each round; wrk shares the "
        "two cores, which bounds what a second process can give."
    )
    head = ("server", "requests/s", "by as it is", "µs/request", "by as it is", "p99 ms", "MiB")
    return Table(how, head, tuple(_rows(found, memory)), kept=chosen == "full")


def _ways(certificate: dict[str, str]) -> list[Way]:
    nowhere = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_SAMPLER": "traceidratio"}
    return [
        Way(_PLAIN),
        Way("through the web framework (FAST_PATH=0)", {"TRIMTAB_FAST_PATH": "0"}),
        Way("2 processes (WORKERS=2)", {"TRIMTAB_WORKERS": "2"}),
        Way("TLS", certificate, is_tls=True),
        Way("SERVER_TIMING=1", {"TRIMTAB_SERVER_TIMING": "1"}),
        Way("ACCESS_LOG=1", {"TRIMTAB_ACCESS_LOG": "1"}),
        Way("SPANS=1, 1 % sampled", {"TRIMTAB_SPANS": "1", **nowhere, "OTEL_TRACES_SAMPLER_ARG": "0.01"}),
        Way("SPANS=1, all sampled", {"TRIMTAB_SPANS": "1", **nowhere, "OTEL_TRACES_SAMPLER_ARG": "1"}),
        Way("SHADOW, 10 % of requests", shadow="10"),
        Way("SHADOW, 100 % of requests", shadow="100"),
        Way("1,000 connections", at_once=1000),
    ]


def _rows(found: dict[str, list[Burst]], memory: dict[str, float]) -> Iterator[tuple[str, ...]]:
    plain = found[_PLAIN]
    for name, bursts in found.items():
        rates, costs = [item.rate for item in bursts], [item.cost for item in bursts]
        by_rate, by_cost = ratios(rates, [item.rate for item in plain]), ratios(costs, [item.cost for item in plain])
        yield (
            name,
            spread(rates, digits=0),
            spread(by_rate) if bursts is not plain else "1",
            spread(costs, digits=0),
            spread(by_cost) if bursts is not plain else "1",
            f"{median(item.late for item in bursts):.2f}",
            f"{memory[name]:.0f}",
        )


def _started(stack: ExitStack, way: Way, folder: Path, place: Path, body: Body, plain: int) -> Server:
    shadow = {"TRIMTAB_SHADOW": f"http://127.0.0.1:{plain}", "TRIMTAB_SHADOW_PERCENT": way.shadow}
    variables = {**OURS.variables, **way.variables, **(shadow if way.shadow != "0" else {})}
    kind: Kind = replace(OURS, shown=way.shown, variables=variables)
    server = Server(kind, folder, place / f"{len(way.shown)}-{hash(way.shown)}.log")
    stack.callback(server.stop)
    server.wait_for(body.file.read_bytes(), way.is_tls)
    return server


def _certificate(place: Path) -> dict[str, str]:
    made = trustme.CA().issue_cert("127.0.0.1")
    chain, key = place / "chain.pem", place / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    made.private_key_pem.write_to_path(key)
    return {"TRIMTAB_TLS_CERTIFICATE": str(chain), "TRIMTAB_TLS_KEY": str(key)}
