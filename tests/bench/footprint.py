"""What the operator takes: memory, and calls of the API server for one rollout."""

import time
from collections import Counter
from pathlib import Path

from figures import Table
from installation import Installation

from callers import Callers

_MIB = 1024


def measure(bench: Installation) -> Table:
    """Roll version 2 out through the steps of the example under traffic, and count."""
    bench.forget()
    bench.settle(bench.example("v1.yaml"))
    before, start = _memory(bench), bench.operator.audit_offset()
    with Callers(bench.target, bench.namespace) as callers:
        callers.start()
        started = time.monotonic()
        bench.settle(bench.example("v2.yaml"))
        seconds = time.monotonic() - started
    calls = Counter(
        str(entry["verb"]) for entry in bench.operator.requests(start) if "/leases/" not in entry["requestURI"]
    )
    after, most = _memory(bench), _memory(bench, "VmHWM")
    how = f"One rollout of version 2 by the steps of the example, {seconds:.0f} s with its Job; no calls for the Lease."
    rows = [
        ("resident memory before and after", f"{before} and {after} MiB"),
        ("most resident memory", f"{most} MiB"),
        ("calls of the API server", ", ".join(f"{count} {verb}" for verb, count in calls.most_common())),
    ]
    return Table(how, ("", ""), tuple(rows))


def _memory(bench: Installation, field: str = "VmRSS") -> int:
    (pid,) = bench.operator.pids()
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field))) // _MIB
